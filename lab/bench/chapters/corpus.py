"""The truth corpus: cases in which tools are known to print a wrong number. Every tool of the kind is judged.

Each case (`lab/bench/cases/`) is caused on purpose, several times. The reference is the wire's log, the kernel's
counters or the applications' own timestamps. `verdict` is 1 for right and 0 for wrong. An unknown value is not wrong, a
missing connection is. The verdicts of O1 and X2 come from the chapter on the observer effect.

- A histogram (R3, R4, R5) is right if the number of values in its buckets is possible and its mean agrees with its own
  buckets.
- The exact value of a bucket's edge cannot be produced from outside. The scenarios test it for this project's probes.
- A smoothed RTT (R5) has to follow RFC 6298. Its lag is not an error.
- F1 to F5 judge tools that see frames. tcptop counts the bytes of applications' calls, in kilobytes, without packets or
  ports.
"""

from collections.abc import Iterator

from lab.bench import cases, tools
from lab.bench.context import Bench
from lab.bench.tools import KINDS, Tool
from lab.results.measurement import Measurement

FIGURE = "corpus"


def measure(bench: Bench) -> Iterator[Measurement]:
    """Run every case, and yield a row per row of the corpus and tool."""
    found: dict[tuple[str, Tool], list[float]] = {}
    for case in cases.every():
        for _ in range(bench.times(2, 1)):
            bench.step(f"corpus: {case.__name__.replace('_', ' ')}")
            for name, tool, correct in case(bench):
                found.setdefault((name, tool), []).append(float(correct))
    for (name, tool), verdicts in sorted(found.items(), key=lambda item: item[0][0]):
        yield Measurement(FIGURE, tool.name, name, "verdict", verdicts)
    for kind in KINDS:
        judged = sorted({name for name, tool in found if tool.kind == kind})
        for tool in tools.of(kind):
            if why := tools.refusal(tool):
                yield from (Measurement(FIGURE, tool.name, name, "verdict", refused=why) for name in judged)
