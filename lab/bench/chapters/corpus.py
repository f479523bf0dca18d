"""The truth corpus: cases in which tools are known to tell a wrong number. Every tool is judged on those of its kinds.

The cases are those of `lab judge` (`lab/judging/cases`), each caused on purpose, several times. `verdict` is the share of
runs in which the tool was right, said that it does not know, or said how much it lost. `lab judge --list` explains each
case. O1 and X2 come from the chapter on the observer effect: O1 asks whether a tool slows connections down by more than a
tenth, X2 the same of a bulk transfer with XDP attached.
"""

from collections.abc import Iterator

from lab.bench import tools
from lab.bench.context import Bench
from lab.judging import cases
from lab.judging.finding import Verdict
from lab.judging.suite import verdicts
from lab.results.measurement import Measurement

FIGURE = "corpus"
_RIGHT = (Verdict.RIGHT, Verdict.UNKNOWN, Verdict.LOST)


def measure(bench: Bench) -> Iterator[Measurement]:
    """Judge every tool, and yield a row for each case and tool."""
    for tool in tools.of(*tools.KINDS):
        found: dict[str, list[float]] = {}
        refused = ""
        for _ in range(bench.times(2, 1)):
            for case, verdict, why in verdicts(tool, cases.every(), quick=bench.quick, step=bench.step):
                if verdict is Verdict.CANNOT_RUN:
                    refused = why
                found.setdefault(case.name, []).append(float(verdict in _RIGHT))
        for name, right in found.items():
            yield Measurement(FIGURE, tool.name, name, "verdict", [] if refused else right, refused=refused or None)
