"""The probes: one module each, which is a command of its own and knows what its program in `bpf/` reports.

A probe's module has a docstring (what each column means, and what it cannot know), `add_arguments` and `run` (the live tool),
`table` (what the live tool would have printed for a recording, line by line) and `judge` (its numbers against the truth).
There is no list to edit: the files are the list.
"""

import importlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from lab.errors import Refused

if TYPE_CHECKING:
    from lab.observed import Observed
    from lab.verdict import Check


class Probe(Protocol):
    """What the lab asks of a probe's module."""

    __doc__: str

    def table(self, observed: "Observed") -> Iterable[str]:
        """Lines of the live tool's table, the head first, for what was recorded on both hosts."""

    def judge(self, observed: "Observed", scenario: str) -> Iterator["Check"]:
        """Every comparison of the probe's numbers with the truth."""


def every() -> dict[str, Probe]:
    """Import every probe, by name."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    return {name: cast("Probe", importlib.import_module(f"{__name__}.{name}")) for name in names}


@cache
def refused() -> dict[str, str]:
    """Load every probe, and return why this kernel refuses those that it does; the way to attach counts (`LAB_ATTACH`)."""
    from lab.program import Program  # noqa: PLC0415 (whoever asks for help loads nothing)

    found = {}
    for name in every():
        try:
            why = Program.load(name).refusal
        except Refused as error:
            why = str(error)
        if why:
            found[name] = why
    return found


def here() -> list[str]:
    """Name every probe that this kernel does not refuse."""
    return [name for name in every() if name not in refused()]
