"""Checks as people read them: one table, with the times in the unit that suits them."""

import re
from collections.abc import Iterable

from tabulate import tabulate

from lab.units import duration_text
from lab.verdict import Check, Value

_LONG = 24
_NUMBER = re.compile(r"(?<=\)) \d+")  # send() 2


def table(checks: Iterable[Check]) -> str:
    """Every check, one line each: truth, measured, error and verdict. Points in time are shown from the bracket's start."""
    rows = [(check.subject, check.quantity, *texts(check), check.verdict) for check in checks]
    headers = ("connection", "quantity", "truth", "measured", "error", "verdict")
    return tabulate(rows, headers, colalign=("left", "left", "right", "right", "right", "left"), disable_numparse=True)


def texts(check: Check) -> tuple[str, str, str]:
    """Write what is true, what was measured, and the error (nothing where values are no numbers)."""
    # A point in time has nineteen digits that nobody reads: it is shown as seen from the earliest it can have been.
    origin = check.low if check.quantity.endswith(" at") and isinstance(check.low, int) else 0
    low, high, measured = (_text(value, check.unit, origin) for value in (check.low, check.high, check.measured))
    truth = low if check.low == check.high else f"{low} .. {high}"
    if check.passed and len(measured) > _LONG:
        measured = "the same"
    return truth, measured, "" if check.error is None else _text(check.error, check.unit, 0)


def kinds(places: str) -> str:
    """Name the kinds of a check's attach points, without what each is attached to."""
    return ", ".join(dict.fromkeys(place.partition(":")[0] for place in places.split(", ") if place))


def without_number(quantity: str) -> str:
    """Name a quantity whatever its number among several of the kind: `result of send()` for `result of send() 2`."""
    return _NUMBER.sub("", quantity)


def summary(checks: Iterable[Check]) -> str:
    """How many checks there were and how many failed, in one sentence."""
    checks = list(checks)
    outside = [check for check in checks if not check.passed]
    if not outside:
        return f"{len(checks)} checks, every measured value is consistent with the truth."
    return f"{len(checks)} checks, {len(outside)} provably wrong; the first: {outside[0].sentence()}."


def _text(value: Value, unit: str, origin: int) -> str:
    if value is None:
        return "unknown"
    return duration_text(value - origin) if isinstance(value, int) and unit == "ns" else str(value)
