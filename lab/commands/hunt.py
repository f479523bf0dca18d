"""Search for wrong numbers: hold random experiments and judge every probe on each.

An experiment is a network, conversations on it, delays, losses and duplicates
on the wire, busy processes beside it, and the probes that watch. The first one
that contradicts the truth is shrunk to the smallest that still does, and
written to a file that repeats it.

Exit status: 1 if a contradiction was found, or if no number was judged.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from lab import probes
from lab.errors import LabError
from lab.hunt.experiment import Experiment, Grounds, grounds
from lab.hunt.finder import Contradiction, Hunt, judged, search
from lab.linux.privileges import require_root
from lab.output.terminal import progress
from lab.output.text import printable
from lab.results.writer import parent

EXAMPLES = """\
examples:
  lab hunt                                one minute, another seed each time
  lab hunt --minutes 60 --seed 7          an hour; the same experiments each time
  lab hunt --replay results/hunt-7.json   an experiment again, ten times
"""

_REPEATS = 10
_MOST_SENTENCES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--minutes", type=_minutes, default=1.0, metavar="N", help="how long to search (%(default)g)")
    parser.add_argument("--seed", type=int, metavar="S", help="the first seed (default: drawn from the clock)")
    parser.add_argument("--probes", nargs="+", choices=probes.names(), metavar="NAME", help="only these probes (all)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help=f"hold the experiment of a file, {_REPEATS} times")


def run(args: argparse.Namespace) -> int:
    """Search, or repeat an experiment. Return 1 for a contradiction, or if no number was judged."""
    require_root()
    with progress() as step, grounds() as ground:
        if args.replay:
            return _repeat(Experiment.read(args.replay), ground, step)
        here = probes.here()
        watched = tuple(name for name in args.probes or here if name in here)
        if not watched:
            raise LabError(f"this kernel refuses {', '.join(args.probes or probes.names())}: see lab doctor")
        first = int(time.time()) if args.seed is None else args.seed
        hunt = search(
            ground.hold,
            watched,
            first_seed=first,
            seconds=60 * args.minutes,
            progress=lambda hunt: step(f"seed {first}: judging numbers, {hunt.held // 10 * 10} experiments held"),
        )
    print(_summary(hunt))
    if not hunt.found:
        return 0 if hunt.checks else 1
    path = parent() / f"hunt-{first}.json"
    parent().mkdir(parents=True, exist_ok=True)
    hunt.found.experiment.write(path)
    print(_contradiction(hunt.found))
    again = "" if hunt.repeated else ", though not each time"
    print(f"\nThe smallest experiment that does so{again} is in {path}.\nRepeat it: lab hunt --replay {path}")
    return 1


def _repeat(experiment: Experiment, ground: Grounds, step: Callable[[str], None]) -> int:
    hunt, failed = Hunt(), 0
    for number in range(_REPEATS):
        step(f"repeating the experiment, {number} of {_REPEATS}")
        try:
            judged(experiment, ground.hold, hunt)
        except Contradiction as contradiction:
            failed += 1
            hunt.found = contradiction
    print(_summary(hunt))
    if hunt.found:
        print(f"{_contradiction(hunt.found)}\n\nIt failed {failed} of {_REPEATS} times.")
    return 1 if failed or not hunt.checks else 0


def _summary(hunt: Hunt) -> str:
    """Return what was done. The numbers of an experiment that was not judged are known to be incomplete."""
    left_out = (
        f", {hunt.withheld} not judged (events withheld, or a network that this kernel lacks)" if hunt.withheld else ""
    )
    verdict = "a contradiction was found" if hunt.found else "no contradiction was found"
    if not hunt.checks and not hunt.found:
        return f"{hunt.held:,} experiments{left_out}. No number was judged: nothing is known about the probes."
    return f"{hunt.held:,} experiments{left_out}, {hunt.checks:,} numbers judged: {verdict}."


def _contradiction(found: Contradiction) -> str:
    more = len(found.sentences) - _MOST_SENTENCES
    shown = [*found.sentences[:_MOST_SENTENCES], *([f"... and {more} more"] if more > 0 else [])]
    return "\n".join(["", *map(printable, shown)])


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < 10_000:
        raise argparse.ArgumentTypeError(f"{text} is not a number of minutes: give more than 0")
    return minutes
