"""The truth corpus: cases in which probes of this kind are known to print a wrong number, put to every tool that claims to answer.

Each case (`lab/bench/cases/`) is caused on purpose, where a wire's log, the kernel's counters or the applications' own stamps are the
truth, several times over; `verdict` is 1 for right and 0 for wrong. What a tool calls unknown is not wrong, a connection that it does
not tell of is. O1 and X2 are told by the observer effect.

A histogram (R3, R4, R5) is right when as many values as there can have been lie in the buckets in which they can lie, and its mean is
one that its own buckets allow. From outside nobody can be fed the exact value of a bucket's edge; what the kernel does with each
edge is proved by the scenarios, for this project's probes. Of a smoothed RTT (R5) it is asked that it is what RFC 6298 makes of the
samples, not that it does not lag. Traffic at an interface is asked of who sees frames there (F1 to F5): tcptop counts what
applications ask for, in kilobytes, and has no packets, ports or frames to be right or wrong about.
"""

from collections.abc import Iterator

from lab.bench import cases, tools
from lab.bench.context import Bench
from lab.bench.tools import KINDS, Tool
from lab.results.measurement import Measurement

FIGURE = "corpus"


def measure(bench: Bench) -> Iterator[Measurement]:
    """Put every case, and yield a row for each row of the corpus and tool."""
    found: dict[tuple[str, Tool], list[float]] = {}
    for case in cases.every():
        for _ in range(bench.times(2, 1)):
            bench.step(f"corpus: {case.__name__.replace('_', ' ')}")
            for name, tool, right in case(bench):
                found.setdefault((name, tool), []).append(float(right))
    for (name, tool), verdicts in sorted(found.items(), key=lambda item: item[0][0]):
        yield Measurement(FIGURE, tool.name, name, "verdict", verdicts)
    for kind in KINDS:
        put = sorted({name for name, tool in found if tool.kind == kind})
        for tool in tools.of(kind):
            if why := tools.refusal(tool):
                yield from (Measurement(FIGURE, tool.name, name, "verdict", refused=why) for name in put)
