"""Other kernels: find one, boot it over this machine's own root file system, run the suite or another command in it."""
