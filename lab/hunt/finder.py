"""The search: Hypothesis draws experiments and shrinks the first one that contradicts the truth."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from lab.errors import LabError
from lab.hunt.experiment import Experiment, Wire
from lab.network.conditions import Conditions
from lab.network.description import NETWORKS
from lab.traffic.demo.conversation import MOST_BUFFERED, OPENINGS, PATTERNS, Conversation, Pattern, refusal
from lab.traffic.demo.ways import WAYS, ways_here
from lab.units import MS
from lab.verdict import Check

_ROUND = 50  # experiments drawn from one seed
_SIZES = (1, 375, 3000, 30_000)
_LARGE = 1_000_000  # only without the relay, which carries frame by frame
_SHRINK_S = 120


class Contradiction(Exception):  # noqa: N818 (named after what was found)
    """An experiment in which a number is provably wrong, or that failed; `sentences` say how."""

    def __init__(self, experiment: Experiment, sentences: list[str]) -> None:
        self.experiment = experiment
        self.sentences = sentences
        super().__init__("\n".join(sentences))


class _TimeIsUp(BaseException):
    """Ends a round: Hypothesis lets only exceptions of this kind through."""


@dataclass
class Hunt:
    """What a hunt did: experiments held, those that could not be judged, checks, and the smallest contradiction."""

    held: int = 0
    withheld: int = 0
    checks: int = 0
    found: Contradiction | None = None
    repeated: bool = True


_pauses = st.sampled_from((0, 0, 3 * MS))
_conditions = st.builds(
    Conditions,
    delay_ns=st.sampled_from((0, MS, 5 * MS)),
    loss=st.sampled_from((0.0, 0.0, 0.03)),
    duplicate=st.sampled_from((0.0, 0.0, 0.05)),
    seed=st.integers(0, 999),
)


# A wire with a log would see one direction of an asymmetric path only.
_WITH_LOG = [name for name, it in NETWORKS.items() if it.has_wire and name != "asymmetric"]
_networks = st.sampled_from((*_WITH_LOG[:1] * 8, *NETWORKS))


@st.composite
def _some_of(draw: st.DrawFn, probes: tuple[str, ...]) -> tuple[str, ...]:
    """Draw most of the probes, each by a choice of its own: Hypothesis then leaves out each that it can."""
    often = st.sampled_from((False, True, True, True))
    return tuple(name for name in probes if draw(often)) or probes[-1:]


@st.composite
def experiments(draw: st.DrawFn, probes: tuple[str, ...]) -> Experiment:
    """Draw an experiment. The first choice of each kind is the simplest one, to which Hypothesis shrinks."""
    network = draw(_networks)
    wire = draw(st.none() | st.builds(Wire, _conditions, _conditions)) if network in _WITH_LOG else None
    sizes = st.sampled_from(_SIZES if wire else (*_SIZES, _LARGE))
    # If a RST is lost, its receiver waits forever.
    how = draw(st.sampled_from(("close", "shutdown") if wire else ("close", "shutdown", "rst")))
    closer = draw(st.sampled_from(("client", "server", "both")))
    # connect() fails if a RST comes before it returns, and then its port is unknown. After a request it has returned.
    least = 1 if how == "rst" and closer != "client" else 0
    connections = draw(st.sampled_from((1, 4, 12)))
    # A RST with URG is not translated, so that its receiver would wait forever (docs/network.md).
    lost = {"urgent"} if how == "rst" and NETWORKS[network].translated else set()
    way = draw(st.sampled_from([name for name in ways_here() if name not in lost]))
    size, reply_size = draw(sizes), draw(st.just(0) | sizes)
    size, reply_size = min(size, WAYS[way].most), min(reply_size, WAYS[way].most)
    exchanges = max(least, draw(st.sampled_from((0, 1, 2, 5))))
    fits = exchanges * max(size, reply_size) <= MOST_BUFFERED
    pattern = draw(st.sampled_from([name for name, it in PATTERNS.items() if _suits(it, fits, least)]))
    asks = exchanges > 0 and PATTERNS[pattern].client_first
    openings = [it for it in OPENINGS if not refusal(it, way, how, closer, asks=asks)]
    return Experiment(
        Conversation(
            size_bits=8 * size,
            reply_bits=8 * reply_size,
            exchanges=exchanges,
            closer=closer,
            how=how,
            before_accept_ns=draw(_pauses),
            before_recv_ns=draw(_pauses),
            before_reply_ns=draw(_pauses),
            think_ns=draw(_pauses),
            hold_ns=draw(_pauses),
            linger_ns=draw(_pauses),
            way=way,
            opening=draw(st.sampled_from(openings)),
            pattern=pattern,
        ),
        connections,
        min(connections, draw(st.sampled_from((1, 6)))),
        draw(st.sampled_from((4, 6))),
        wire,
        draw(st.sampled_from((0, 0, 0, 1, 3))),
        draw(_some_of(probes)),
        network,
    )


def _suits(pattern: Pattern, fits: bool, least: int) -> bool:  # noqa: FBT001 (all three are given by position)
    """Return whether a pattern can be drawn: its data `fits` into buffers, and its client asks first if `least` requests must."""
    return (fits or not pattern.buffered) and (pattern.client_first or not least)


def judged(experiment: Experiment, hold: Callable[[Experiment], list[Check] | None], hunt: Hunt) -> None:
    """Hold an experiment. Raises `Contradiction` if a number is provably wrong, or if it cannot be held."""
    hunt.held += 1
    try:
        checks = hold(experiment)
    except LabError as error:
        raise Contradiction(experiment, [str(error)]) from error
    if checks is None:
        hunt.withheld += 1
        return
    hunt.checks += len(checks)
    if wrong := [check.sentence() for check in checks if not check.passed]:
        raise Contradiction(experiment, wrong)


def search(
    hold: Callable[[Experiment], list[Check] | None],
    probes: tuple[str, ...],
    *,
    first_seed: int,
    seconds: float,
    progress: Callable[[Hunt], None] = lambda _: None,
) -> Hunt:
    """Hold random experiments until the time is up or a contradiction is found, which is then shrunk for two minutes at most."""
    hunt, number = Hunt(), first_seed
    deadline = time.monotonic() + seconds
    smallest: list[Contradiction] = []

    def one(experiment: Experiment) -> None:
        nonlocal deadline
        if time.monotonic() > deadline:
            raise _TimeIsUp
        progress(hunt)
        try:
            judged(experiment, hold, hunt)
        except Contradiction as contradiction:
            if not smallest:
                deadline = time.monotonic() + _SHRINK_S
            smallest.append(contradiction)
            raise

    while not smallest and time.monotonic() < deadline:
        try:
            seed(number)(_settings(given(experiments(probes))(one)))()
        except _TimeIsUp:
            break
        except Flaky:
            hunt.repeated = False
        except Contradiction:
            pass
        number += 1
    hunt.found = smallest[-1] if smallest else None
    return hunt


_settings = settings(
    max_examples=_ROUND,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
    print_blob=False,
    verbosity=Verbosity.quiet,
    suppress_health_check=list(HealthCheck),
)
