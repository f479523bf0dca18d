"""The kernel's own interfaces: system calls, BTF, network namespaces, procfs, tracefs. Knows nothing of BPF programs or TCP."""
