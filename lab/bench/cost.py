"""The cost of a few tools, for `lab judge --cost`: their programs' run time, and what they do to the traffic."""

from collections.abc import Iterator, Sequence

from lab.bench.chapters import kernel_cost, observer_effect
from lab.bench.context import Bench
from lab.judging.description import FRAMES, Description
from lab.judging.running import refusal
from lab.results.measurement import Measurement


def cost_of(tools: Sequence[Description], bench: Bench) -> Iterator[Measurement]:
    """Yield the figures `kernel cost` and `observer effect` of some tools, or why a tool cannot run."""
    subjects = []
    for tool in tools:
        if why := refusal(tool):
            yield Measurement(observer_effect.FIGURE, tool.name, "connections", "ratio", refused=why)
        else:
            subjects.append(tool)
    yield from kernel_cost.compared([tool for tool in subjects if tool.at != FRAMES or tool.ours], bench)
    yield from observer_effect.rows(observer_effect.of_connections(subjects, bench))
