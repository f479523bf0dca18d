"""The probes, a package each. There is no list to edit: the folders are the list.

A probe is `bpf/<name>.c` and the package `lab/probes/<name>/` with the modules

- `cli`: the live tool. Its docstring is the help, `add_arguments(parser)` its options, `run(args)` what it does.
- `text`: `table(observed)` yields the lines that the live tool would have printed for a recording.
- `judge`: `checks(observed, scenario)` yields every comparison of the probe's numbers with the truth.

and whatever else it needs: `measure` (pure functions from events to rows) and `tracker` (the same, batch by batch) by convention.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from lab.errors import LabError, UnsupportedByKernel

if TYPE_CHECKING:
    from lab.observation import Observed
    from lab.verdict import Check


def names() -> list[str]:
    """Name every probe, in alphabetical order."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__))


def part(probe: str, module: str) -> ModuleType:
    """Import one module of a probe's package. Raises `LabError` when there is no such probe, or no such module."""
    name = f"{__name__}.{probe}.{module}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and not name.startswith(error.name):
            raise
        raise LabError(
            f"the probe `{probe}` has no module {name}: lab/probes/__init__.py says what it needs"
        ) from error


def table(probe: str, observed: "Observed") -> Iterator[str]:
    """Yield the lines that a probe's live tool would have printed for what was recorded on both hosts."""
    yield from part(probe, "text").table(observed)


def judge(probe: str, observed: "Observed", scenario: str) -> list["Check"]:
    """Compare a probe's numbers with the truth; returns every check.

    Raises `LabError` when there is none: a probe whose numbers are not looked at is not tested.
    """
    if checks := list(part(probe, "judge").checks(observed, scenario)):
        return checks
    raise LabError(
        f"the judge of `{probe}` yields no check for {len(observed.connections)} connections: "
        f"let checks() in lab/probes/{probe}/judge.py compare at least one number of each"
    )


@cache
def refusal(name: str) -> str | None:
    """Load a probe, and return why this kernel refuses it, None when it does not; the way to attach counts (`LAB_ATTACH`)."""
    from lab.ebpf.program import Program  # noqa: PLC0415 (`lab --help` needs none)

    try:
        return Program.load(name).refusal
    except UnsupportedByKernel as error:
        return str(error)


def require(name: str) -> None:
    """Raise `UnsupportedByKernel`, in the kernel's words, if this kernel refuses a probe."""
    if why := refusal(name):
        raise UnsupportedByKernel(why)


def refused() -> dict[str, str]:
    """Return why this kernel refuses those probes that it does, by name."""
    return {name: why for name in names() if (why := refusal(name))}


def here() -> list[str]:
    """Name every probe that this kernel does not refuse."""
    return [name for name in names() if not refusal(name)]
