"""BPF programs: compiled from `bpf/`, loaded, attached, read and audited. Knows nothing of what a program measures."""
