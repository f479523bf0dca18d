"""Traffic that records its own truth: the demo client and server, and crafted frames."""
