"""The smallest errors that a run would have noticed: from which shift of its measured values on nearly all checks fail.

A value in the middle of a wide bracket can be wrong by half of it without a failed check. So each measured value is shifted, later
or earlier, until its check fails. No kernel is needed: the brackets of a kept run say it.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.arrays import Integers
from lab.results.check_columns import Group, stream
from lab.results.sharpness import TIME, quantity_of
from lab.verdict import Check

MOST = 0.99
"""The part of the checks that fails at a shift that would have been noticed."""


@dataclass(frozen=True)
class Caught:
    """One quantity of a probe in all scenarios of a run.

    - `checks`: those that passed and have an interval.
    - `late`, `early`: 99 % of them fail if the values are larger, or smaller, by this much, in the unit of the quantity.
    """

    probe: str
    quantity: str
    unit: str
    checks: int
    late: int
    early: int

    @property
    def either(self) -> int:
        """The error that is noticed in whichever direction it goes."""
        return max(self.late, self.early)


def caught(path: Path) -> list[Caught]:
    """Return what the checks of a file would have noticed, by quantity: times before counts, the largest error first."""
    rooms: dict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)
    for check in stream(path):
        if room := _room(check):
            rooms[quantity_of(Group(check.scenario, check.probe, check.quantity, check.unit))].append(room)
    found = []
    for (probe, quantity, unit), some in rooms.items():
        late, early = (_noticed(side) for side in np.array(some, np.int64).T)
        found.append(Caught(probe, quantity, unit, len(some), late, early))
    return sorted(found, key=lambda one: (one.unit != TIME, -one.either, one.probe, one.quantity))


def _room(check: Check) -> tuple[int, int] | None:
    """Return how far above and below its value a check still passes; None if it failed or has no interval."""
    if check.passing is None or not check.passed or not isinstance(check.measured, int):
        return None
    low, high = check.passing
    return high - check.measured, check.measured - low


def _noticed(rooms: Integers) -> int:
    """Return the least shift at which the checks with this room fail, 99 % of them."""
    return int(np.sort(rooms)[int(np.ceil(MOST * len(rooms))) - 1]) + 1
