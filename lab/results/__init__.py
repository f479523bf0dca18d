"""Results of runs: written, read, compared, exported."""
