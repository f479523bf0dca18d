"""Other kernels: found, booted over this machine's own root file system, and told to run the suite."""
