"""Checks as a text table, each time in a suitable unit."""

import re
from collections.abc import Iterable

from lab.output.text import tabulated
from lab.units import duration_text
from lab.verdict import Check, Value

_LONG = 24
_NUMBER = re.compile(r"(?<=\)) \d+")  # the 2 of `send() 2`


def table(checks: Iterable[Check]) -> str:
    """Return a table of checks, with the truth, the measured value and the error of each.

    Points in time count from the start of their bracket.
    """
    rows = [(check.subject, check.quantity, *texts(check), check.verdict) for check in checks]
    headers = ("connection", "quantity", "truth", "measured", "error", "verdict")
    return tabulated(rows, headers, colalign=("left", "left", "right", "right", "right", "left"), disable_numparse=True)


def texts(check: Check) -> tuple[str, str, str]:
    """Return the texts of the truth, the measured value and the error (empty if the values are not numbers)."""
    # A point in time has up to 19 digits, so it is shown relative to the start of its bracket.
    origin = check.low if check.is_time and isinstance(check.low, int) else 0
    low, high, measured = (_text(value, check.unit, origin) for value in (check.low, check.high, check.measured))
    truth = low if check.low == check.high else f"{low} .. {high}"
    if check.passed and len(measured) > _LONG:
        measured = "the same"
    return truth, measured, "" if check.error is None else _text(check.error, check.unit, 0)


def kinds(places: str) -> str:
    """Return the kinds of a check's attach points, each once: `fentry` for `fentry:tcp_v4_rcv`."""
    return ", ".join(dict.fromkeys(place.partition(":")[0] for place in places.split(", ") if place))


def without_number(quantity: str) -> str:
    """Return a quantity without its running number: `result of send()` for `result of send() 2`."""
    return _NUMBER.sub("", quantity)


def _text(value: Value, unit: str, origin: int) -> str:
    if value is None:
        return "unknown"
    return duration_text(value - origin) if isinstance(value, int) and unit == "ns" else str(value)
