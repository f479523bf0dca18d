"""Interfaces of the kernel: system calls, BTF, network namespaces, procfs, tracefs. Not the lab's BPF programs."""
