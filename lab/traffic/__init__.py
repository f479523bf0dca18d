"""Traffic with a known truth: the demo client and server, and crafted frames."""
