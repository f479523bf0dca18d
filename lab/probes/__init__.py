"""The probes, one package each. There is no list to edit: each folder is a probe.

A probe is `bpf/<name>.c` and the package `lab/probes/<name>/` with the modules

- `cli`: the live tool. The docstring is its help, `add_arguments(parser)` adds its options, `run(args)` runs it. The
  strings `EXAMPLES` and `DETAILS` are optional; `--help` prints them after the options.
- `text`: `table(observed)` yields the lines that the live tool would have printed for a recording.
- `judge`: `checks(observed, scenario)` yields every comparison of the probe's numbers with the truth.
- `metrics`, optional: `families(args)` returns the metrics that the live tool serves with `--metrics`.

By convention, pure functions from events to rows are in `measure`, and the batch-by-batch version of them in `tracker`.
"""

import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from lab.errors import LabError, UnsupportedByKernel
from lab.output.text import printable

if TYPE_CHECKING:
    from lab.observation import Observed
    from lab.verdict import Check


def names() -> list[str]:
    """Return the names of all probes, sorted."""
    return sorted(module.parent.name for place in __path__ for module in Path(place).glob("*/__init__.py"))


def part(probe: str, module: str) -> ModuleType:
    """Import one module of a probe's package. Raises `LabError` if the probe or the module does not exist."""
    name = f"{__name__}.{probe}.{module}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and not name.startswith(error.name):
            raise
        raise LabError(
            f"the probe `{probe}` has no module {name}: lab/probes/__init__.py lists the modules that a probe needs"
        ) from error


def table(probe: str, observed: "Observed") -> Iterator[str]:
    """Yield the lines that a probe's live tool would have printed for the recording of both hosts."""
    for line in part(probe, "text").table(observed):
        yield printable(line, keep="\n")


def judge(probe: str, observed: "Observed", scenario: str) -> list["Check"]:
    """Return every check of a probe's numbers against the truth.

    Raises `LabError` if there is no check: a recording without checks proves nothing about the probe.
    """
    if checks := list(part(probe, "judge").checks(observed, scenario)):
        return checks
    raise LabError(
        f"the judge of `{probe}` yields no check for {len(observed.connections)} connections: "
        f"checks() in lab/probes/{probe}/judge.py has to compare at least one number of each"
    )


@cache
def refusal(name: str) -> str | None:
    """Return why this kernel refuses a probe with the current mechanism (`LAB_ATTACH`); None if it does not."""
    from lab.ebpf.program import Program  # noqa: PLC0415 (`lab --help` does not need it)

    try:
        return Program.load(name).refusal
    except UnsupportedByKernel as error:
        return str(error)


def require(name: str) -> None:
    """Raise `UnsupportedByKernel`, with the kernel's message, if this kernel refuses a probe."""
    if why := refusal(name):
        raise UnsupportedByKernel(why)


def refused() -> dict[str, str]:
    """Return the probes that this kernel refuses: their names, each with the reason."""
    return {name: why for name in names() if (why := refusal(name))}


def here() -> list[str]:
    """Return the names of the probes that this kernel does not refuse."""
    return [name for name in names() if not refusal(name)]
