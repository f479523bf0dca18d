"""Common parts of all live tools: options, output, and the loop that reads events or totals."""
