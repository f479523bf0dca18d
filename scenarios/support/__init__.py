"""What scenarios share: traffic, observers and comparisons. Test modules import from here and never from each other."""
