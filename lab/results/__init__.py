"""Results of runs: writing, reading, comparing and exporting them."""
