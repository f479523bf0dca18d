"""BPF programs: compiling, loading, attaching, reading, auditing. The meaning of their events does not live here."""
