"""When and how often events must have happened, from timelines, wire logs and counters; no probes, no BPF."""
