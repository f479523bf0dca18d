"""The suite on other kernels: find a kernel, boot it over this machine's own root file system, run pytest in it."""
