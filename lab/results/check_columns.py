"""All checks of a run as columns, however many there are: `checks.jsonl` is read once, and some 40 bytes of each row are kept.

What lives here: reading, and finding a row again. What does not: what is concluded from them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from lab.arrays import Integers, Rows
from lab.errors import LabError
from lab.verdict import Check

FILE = "checks.jsonl"

_CHUNK = 1 << 22  # bytes: a few thousand rows
_DECODER = msgspec.json.Decoder(Check)


class Group(NamedTuple):
    """What checks are told together by: the same quantity, of one probe, in one scenario."""

    scenario: str
    probe: str
    quantity: str
    unit: str


ROW = np.dtype([("group", "i4"), ("passed", "?"), ("far", "?"), ("error", "f8"), ("position", "f8"), ("offset", "i8")])
"""What is kept of a check.

`group` is the position of its group among all; `error` measured minus the best estimate of the truth, in the group's unit, NaN
where values are no numbers; `position` where in its bracket the value is, 0 at the low end and 1 at the high one, NaN where the
bracket is no interval; `passed` and `far` the verdict; `offset` the first byte of its line in the file.
"""


@dataclass(frozen=True)
class CheckColumns:
    """The checks of a file, as an array of `ROW` in the file's order.

    By probe, `attach_points` is where it was attached, and `lost` the most events missing from one recording. `torn` tells that
    the last line is not complete, as a killed run may leave it: it is not among the rows.
    """

    path: Path
    groups: list[Group]
    rows: Rows
    attach_points: dict[str, list[str]]
    lost: dict[str, int]
    torn: bool = False

    @classmethod
    def read(cls, path: Path) -> "CheckColumns":
        """Read a file of checks; none where there is no such file. Raises `LabError` for a line that is no check."""
        groups: dict[Group, int] = {}
        parts = [np.empty(0, ROW)]
        places: dict[str, dict[str, None]] = {}
        lost: dict[str, int] = {}
        start, torn = 0, False
        for chunk in _chunks(path):
            lines = chunk[: chunk.rfind(b"\n") + 1]
            torn = len(lines) < len(chunk)
            checks = _decoded(path, lines)
            part = np.array(
                [
                    (
                        groups.setdefault(Group(check.scenario, check.probe, check.quantity, check.unit), len(groups)),
                        check.passed,
                        check.verdict == "far",
                        np.nan if check.error is None else check.error,
                        position(check),
                        0,
                    )
                    for check in checks
                ],
                ROW,
            )
            ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n")) + 1
            part["offset"][1:] = ends[:-1]
            part["offset"] += start
            parts.append(part)
            start += len(chunk)
            for probe, place, missing in {(check.probe, check.attach_point, check.lost) for check in checks}:
                places.setdefault(probe, {})[place] = None
                lost[probe] = max(missing, lost.get(probe, 0))
        attach_points = {probe: list(found) for probe, found in places.items()}
        return cls(path, list(groups), np.concatenate(parts), attach_points, lost, torn)

    def members(self) -> list[Integers]:
        """Return for each group the positions of its rows, in the file's order."""
        ends = np.cumsum(np.bincount(self.rows["group"], minlength=len(self.groups)))
        return np.split(np.argsort(self.rows["group"], kind="stable"), ends[:-1]) if self.groups else []

    def lines(self, positions: Iterable[int]) -> Iterator[str]:
        """Yield the lines of some rows, as they stand in the file."""
        with self.path.open("rb") as file:
            for row in positions:
                file.seek(int(self.rows["offset"][row]))
                yield file.readline().decode().rstrip("\n")


def stream(path: Path) -> Iterator[Check]:
    """Yield the complete checks of a file, in its order. Raises `LabError` for a line that is no check."""
    for chunk in _chunks(path):
        yield from _decoded(path, chunk[: chunk.rfind(b"\n") + 1])


def decoded(line: str) -> Check:
    """Read one line of the file."""
    return _DECODER.decode(line)


def position(check: Check) -> float:
    """Return where in its bracket a value is: 0 at the low end, 1 at the high end; NaN where the bracket is no interval."""
    low, high, measured = check.low, check.high, check.measured
    if isinstance(low, int) and isinstance(high, int) and isinstance(measured, int) and high > low:
        return (measured - low) / (high - low)
    return float("nan")


def _decoded(path: Path, lines: bytes) -> list[Check]:
    try:
        checks = _DECODER.decode_lines(lines)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LabError(f"{path} holds no checks of this version ({error}): run the scenarios again") from error
    if len(checks) != lines.count(b"\n"):
        raise LabError(f"{path} has empty lines, so it was not written by the lab: run the scenarios again")
    return checks


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces that end with a line; nothing where there is none. Raises `LabError` when it cannot be read."""
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk + file.readline()
    except OSError as error:
        raise LabError(f"{path} cannot be read ({error.strerror})") from error
