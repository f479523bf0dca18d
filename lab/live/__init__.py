"""What all live tools share: options, output, and the loop that reads events or totals."""
