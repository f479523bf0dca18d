"""Traffic, observers and comparisons that scenarios share. Test modules import from here, not from each other."""
