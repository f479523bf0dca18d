"""The probes: one module each, which is a command of its own and knows what its program in `bpf/` reports.

A probe's module has a docstring (what each column means, and what it cannot know), `add_arguments` and `run` (the live tool),
`table` (what the live tool would have printed for a recording, line by line) and `judge` (its numbers against the truth).
There is no list to edit: the files are the list.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

from lab.errors import Refused

if TYPE_CHECKING:
    from lab.observation import Observed
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
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return {name: cast("Probe", importlib.import_module(f"{__name__}.{name}.cli")) for name in names}


@cache
def refusal(name: str) -> str | None:
    """Load a probe, and return why this kernel refuses it, None when it does not; the way to attach counts (`LAB_ATTACH`)."""
    from lab.ebpf.program import Program  # noqa: PLC0415 (`lab --help` needs none)

    try:
        return Program.load(name).refusal
    except Refused as error:
        return str(error)


def require(name: str) -> None:
    """Raise `Refused`, in the kernel's words, if this kernel refuses a probe."""
    if why := refusal(name):
        raise Refused(why)


def refused() -> dict[str, str]:
    """Return why this kernel refuses those probes that it does, by name."""
    return {name: why for name in every() if (why := refusal(name))}


def here() -> list[str]:
    """Name every probe that this kernel does not refuse."""
    return [name for name in every() if not refusal(name)]
