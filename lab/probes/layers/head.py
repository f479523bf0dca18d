"""The heads of the tables, which are printed before NumPy is imported."""

_HEADINGS = ("APP", "WRITE", "RESEND", "QDISC", "WIRE", "RECEIVE", "IP", "TCP", "WAKE-UP", "QUEUE", "READ")

NARROW = 172
"""A terminal with fewer columns gets a line of a request with its slowest layers."""


def header(*, packets: bool = False, columns: int | None = None) -> str:
    """Return the head line of the table of requests, or of the one of segments, for a terminal of this width."""
    if packets:
        layers = "".join(f" {name:>8}" for name in _HEADINGS[1:])
        return f"{'FROM':<21} {'TO':<21} {'SEQ':>10} {'BYTES':>6}{layers} FATE (times in us)"
    if columns and columns < NARROW:
        return f"{'CLIENT':<21} {'REQUEST':>7} {'REPLY':>8} {'TOTAL':>9}  SLOWEST LAYERS"
    layers = "".join(f" {name:>8}" for name in _HEADINGS)
    return f"{'CLIENT':<21} {'(us)':<7} {'BYTES':>8}{layers} {'ELSEWHERE':>10} {'TOTAL':>10}"
