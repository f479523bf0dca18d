"""The columns of the table, and its head, which is printed before NumPy is imported."""

_HEADINGS = (
    *("PID", "COMM", "IP", "SADDR", "DADDR", "DPORT", "TIMESTAMP(us)"),
    *("FUNC", "TCP_STATE", "TCP_DESCRIPTION", "TCP_CONNECT_TIME(us)"),
)
LINE = "{:<7} {:<12.12} {:<2} {:<{width}} {:<{width}} {:<5} {:<16} {:<19} {:<11} {:<72} {}"  # width: of an address

NARROW = 172
"""A terminal with fewer columns gets the columns of `SHORT` only."""
SHORT = "{:<7} {:<5} {:<16} {:<11} {}"


def header(*, wide: bool = False, columns: int | None = None) -> str:
    """Return the head line of the table for a terminal with this number of columns."""
    if columns and columns < NARROW:
        return SHORT.format("PID", "DPORT", "TIMESTAMP(us)", "TCP_STATE", "TCP_DESCRIPTION")
    return LINE.format(*_HEADINGS, width=width_of(wide=wide))


def width_of(*, wide: bool) -> int:
    """Return the width of an address."""
    return 39 if wide else 15
