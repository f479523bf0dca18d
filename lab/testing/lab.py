"""The fixture `lab`: observed conversations on a network, and their verdicts. For `plugin`, which imports this late."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from lab import clock, probes
from lab.network.topology import Topology
from lab.observation import Observed, observe
from lab.report import story
from lab.results.writer import Results
from lab.traffic.demo.conversation import Conversation
from lab.verdict import Bracket, Check, Judge

LEAST_TOLERANCE_NS = 100_000


@dataclass
class Lab:
    """A topology, methods that record conversations on it, and the results folder for their checks.

    `run` returns the results folder. It creates the folder if necessary, so it is called when there is a check.
    """

    net: Topology
    run: Callable[[], Results]
    scenario: str

    def converse(self, conversation: Conversation, **how: Any) -> Observed:
        """Record conversations until they are over; arguments as for `lab.observation.observe`."""
        with observe(self.net, conversation, **how) as observed:
            pass
        return observed

    def observe(self, conversation: Conversation, **how: Any) -> AbstractContextManager[Observed]:
        """Return a context manager like `converse`. The conversations run while the block runs (`demo`)."""
        return observe(self.net, conversation, **how)

    def judge(self, probe: str, observed: Observed) -> list[Check]:
        """Judge the recording of one probe. Fail if a value is provably wrong."""
        return self.check(self._judged(probe, observed), observed)

    def states(self, observed: Observed) -> list[Check]:
        """Judge the recording of the probe `states`. Fail if a value is provably wrong."""
        return self.judge("states", observed)

    def many_states(self, observed: Observed) -> None:
        """Judge `states` on many connections: only wrong values and the number of complete sockets become checks.

        Each event that the kernel withheld from the probe may make one socket incomplete. Every other fault fails.
        """
        checks = self._judged("states", observed)
        complete = [check for check in checks if check.quantity == "state sequence" and check.passed]
        wrong = [check for check in checks if check.quantity != "state sequence" and not check.passed]
        judge = Judge(self.scenario, checks[0].probe, checks[0].attach_point, checks[0].lost)
        sockets = 2 * len(observed.connections)
        bracket = Bracket.late(sockets - observed.recording.missing("states"), sockets)
        self.check(
            [
                *wrong,
                judge.count(f"{len(observed.connections)} connections", "complete sockets", bracket, len(complete)),
            ],
            observed,
        )

    def _judged(self, probe: str, observed: Observed) -> list[Check]:
        probes.require(probe)
        return probes.judge(probe, observed, self.scenario)

    def check(self, checks: Iterable[Check], observed: Observed | None = None) -> list[Check]:
        """Add checks to the results. Fail if one of them did not pass, or if there are none.

        With `observed`, the report shows the timestamps around a wrong number.
        """
        checks = self.run().add(checks)
        if observed and (lines := story.lines(checks, observed)):
            self.run().append(story.FILE, lines)
        if not checks:
            raise AssertionError("a scenario needs at least one check")
        if wrong := [check.sentence() for check in checks if not check.passed]:
            raise AssertionError(f"{len(wrong)} of {len(checks)} checks are provably wrong:\n" + "\n".join(wrong[:20]))
        return checks

    def exact(self, checks: Iterable[Check]) -> list[Check]:
        """Do `check`.

        On the virtual clock, limit each error to 100 us or 0.5 % of the injected delay, whichever is larger.
        """
        if clock.of_guest() == clock.VIRTUAL:
            checks = [check.within(max(LEAST_TOLERANCE_NS, int(check.low or 0) // 200)) for check in checks]
        return self.check(checks)
