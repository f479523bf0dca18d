"""The head of the table, which is printed before NumPy is imported."""

NARROW = 100
"""A terminal with fewer columns gets lines that begin with the duration."""

HEAD = f"{'client':>15}:{'port':<5} -> {'server':>15}:{'port':<5} | first SYN to first FIN"


def head(columns: int | None) -> str:
    """Return the head for a terminal with this number of columns."""
    return f"{'DURATION':>13}   CLIENT -> SERVER | first SYN to first FIN" if columns and columns < NARROW else HEAD
