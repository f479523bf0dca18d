"""When and how often things must have happened, from the records of those who caused them. Knows neither probes nor BPF."""
