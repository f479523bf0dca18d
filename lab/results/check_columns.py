"""All checks of a run as columns: reads `checks.jsonl` once and keeps about 40 bytes of each row.

What lives here: reading the file, and finding the line of a row. What does not: any evaluation of the checks.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from lab.arrays import Integers, Rows
from lab.errors import LabError
from lab.results.check_table import without_number
from lab.results.schema import LONGEST
from lab.verdict import Check

FILE = "checks.jsonl"

_CHUNK = 1 << 22  # bytes: a few thousand rows
_DECODER = msgspec.json.Decoder(Check)


class Group(NamedTuple):
    """The key by which checks are grouped: one quantity of one probe in one scenario."""

    scenario: str
    probe: str
    quantity: str
    unit: str


ROW = np.dtype(
    [
        ("group", "i4"),
        ("passed", "?"),
        ("far", "?"),
        ("error", "f8"),
        ("position", "f8"),
        ("width", "f8"),
        ("offset", "i8"),
    ]
)
"""The fields kept of each check.

- `group`: index into `CheckColumns.groups`.
- `passed`, `far`: the verdict. `far` means inside the bracket, but with an error above the tolerance.
- `error`: measured value minus the best estimate of the truth, in the group's unit; NaN if the values are not numbers.
- `position`: place of the value in its bracket, from 0 (low end) to 1 (high end); NaN if the bracket is no interval.
- `width`: width of the interval of all values that pass, in the group's unit; NaN for a check of equality.
- `offset`: position of its line in the file, in bytes.
"""


@dataclass(frozen=True)
class CheckColumns:
    """The checks of a file, as an array of `ROW` in the order of the file.

    For each probe, `attach_points` lists where it was attached, and `lost` is the largest number of events missing from
    one recording. `torn` is true if the last line is incomplete, as after a killed run; it is not in `rows`.
    """

    path: Path
    groups: list[Group]
    rows: Rows
    attach_points: dict[str, list[str]]
    lost: dict[str, int]
    torn: bool = False

    @classmethod
    def read(cls, path: Path) -> "CheckColumns":
        """Read a file of checks; no rows without a file. Raises `LabError` for a line that is not a check."""
        groups: dict[Group, int] = {}
        parts = [np.empty(0, ROW)]
        places: dict[str, dict[str, None]] = {}
        lost: dict[str, int] = {}
        start, torn = 0, False
        for chunk in _chunks(path):
            lines = chunk[: chunk.rfind(b"\n") + 1]
            torn = len(lines) < len(chunk)
            checks = _decoded(path, lines)
            part = _part(path, checks, groups)
            ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n")) + 1
            part["offset"][1:] = ends[:-1]
            part["offset"] += start
            parts.append(part)
            start += len(chunk)
            for probe, place, missing in dict.fromkeys((it.probe, it.attach_point, it.lost) for it in checks):
                places.setdefault(probe, {}).update(dict.fromkeys(filter(None, place.split(", "))))
                lost[probe] = max(missing, lost.get(probe, 0))
        attach_points = {probe: list(found) for probe, found in places.items()}
        return cls(path, list(groups), np.concatenate(parts), attach_points, lost, torn)

    def members(self) -> list[Integers]:
        """Return for each group the indexes of its rows, in the order of the file."""
        ends = np.cumsum(np.bincount(self.rows["group"], minlength=len(self.groups)))
        return np.split(np.argsort(self.rows["group"], kind="stable"), ends[:-1]) if self.groups else []

    def without_numbers(self) -> "CheckColumns":
        """Return the same checks, with quantities that differ by their running number only in one group."""
        groups: dict[Group, int] = {}
        merged = (group._replace(quantity=without_number(group.quantity)) for group in self.groups)
        of = np.array([groups.setdefault(group, len(groups)) for group in merged], "i4")
        rows = self.rows.copy()
        rows["group"] = of[rows["group"]]
        return replace(self, groups=list(groups), rows=rows)

    def failed(self) -> Iterator[Check]:
        """Yield the failed checks."""
        yield from map(decoded, self.lines(np.flatnonzero(~self.rows["passed"]).tolist()))

    def lines(self, positions: Iterable[int]) -> Iterator[str]:
        """Yield the lines of the rows with these indexes, unchanged from the file."""
        with self.path.open("rb") as file:
            for row in positions:
                file.seek(int(self.rows["offset"][row]))
                yield file.readline().decode(errors="replace").rstrip("\n")


def stream(path: Path) -> Iterator[Check]:
    """Yield the checks of a file, without an incomplete last line. Raises `LabError` for a line that is not a check."""
    for chunk in _chunks(path):
        yield from _decoded(path, chunk[: chunk.rfind(b"\n") + 1])


def decoded(line: str) -> Check:
    """Return the check in one line of the file."""
    return _DECODER.decode(line)


def position(check: Check) -> float:
    """Return the place of a value in its bracket, 0 (low end) to 1 (high end); NaN if the bracket is no interval."""
    low, high, measured = check.low, check.high, check.measured
    if isinstance(low, int) and isinstance(high, int) and isinstance(measured, int) and high > low:
        return (measured - low) / (high - low)
    return float("nan")


def _part(path: Path, checks: Sequence[Check], groups: dict[Group, int]) -> Rows:
    """Return the rows of some checks without their offsets; adds their groups to `groups`."""

    def fields(check: Check) -> tuple[object, ...]:
        group = groups.setdefault(Group(check.scenario, check.probe, check.quantity, check.unit), len(groups))
        error = np.nan if check.error is None else check.error
        width = np.nan if check.width is None else check.width
        return group, check.passed, check.verdict == "far", error, position(check), width, 0

    try:
        return np.array([fields(check) for check in checks], ROW)
    except OverflowError as error:
        raise LabError(f"{path} has a number that nothing measures ({error}): run the scenarios again") from error


def _decoded(path: Path, lines: bytes) -> list[Check]:
    try:
        checks = _DECODER.decode_lines(lines)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LabError(f"{path} is not a file of checks of this version ({error}): run the scenarios again") from error
    if len(checks) != lines.count(b"\n"):
        raise LabError(f"{path} was not written by the lab, because it has empty lines: run the scenarios again")
    return checks


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces of whole lines; nothing if there is no file. Raises `LabError` if it cannot be read."""
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                rest = file.readline(LONGEST + 1)
                if len(rest) > LONGEST:
                    raise LabError(f"{path} has a line of more than {LONGEST >> 20} MB: run the scenarios again")
                yield chunk + rest
    except OSError as error:
        raise LabError(f"{path} cannot be read ({error.strerror})") from error
