"""The stage of an experiment: run tools around traffic, and keep what they printed and what happened."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from msgspec import Struct

from lab import clock
from lab.judging.description import Description
from lab.judging.happened import Happened, Held, connections_of, rtt_of
from lab.judging.running import RefusedError, Running, Scope, running
from lab.network.topology import Topology
from lab.observation import Observed, observing
from lab.tcp import byte_swapped
from lab.timeline import Connection
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.traffic.load_generator import Place
from lab.units import SECOND, duration_ns

_QUIET_LIMIT_S = 20.0
_MANY = 1 << 30


class Printed(Struct, frozen=True):
    """What a tool printed in one experiment, and how it ended.

    - `foreign`: the number of its lines about other traffic of the machine, which are not kept.
    - `early`: its exit status if it ended before it was stopped.
    - `refused`: its own words if it did not come to observe; `unknown_case`: it exited with 127.
    """

    output: str = ""
    stderr: str = ""
    status: int | None = None
    early: int | None = None
    refused: str = ""
    unknown_case: bool = False
    foreign: int = 0


class Ports(Struct, frozen=True):
    """Ports of the client and of the server, each the byte swap of the other, drawn at random for each run."""

    client: int
    server: int

    @classmethod
    def drawn(cls) -> "Ports":
        """Draw a pair that no service of the machine uses by default."""
        low, high = random.sample(range(0x18, 0x78), 2)
        server = low << 8 | high
        return cls(byte_swapped(server), server)


class Stage:
    """Where one experiment takes place, in front of some tools.

    `printed` has what each tool printed. `step` reports progress.
    """

    def __init__(
        self, tools: Sequence[Description], case: str = "", *, quick: bool = False, step: Callable[[str], None] = print
    ) -> None:
        self.tools = list(tools)
        self.case = case
        self.quick = quick
        self.step = step
        self.printed: dict[Description, Printed] = {}
        self.ports = Ports.drawn()

    def times(self, thoroughly: int, quickly: int) -> int:
        """Return `quickly` in a quick run, else `thoroughly`."""
        return quickly if self.quick else thoroughly

    @contextmanager
    def watching(self, net: Topology, *, lport: int | None = None, rport: int | None = None) -> Iterator[Observed]:
        """Run the tools at the client's interface around a block. The block adds its connections to the yielded object."""
        scope = Scope(
            net.client.name,
            net.client.ifname,
            lport,
            rport,
            self.ports.server,
            net.client.ipv4,
            net.target.ipv4,
            net.server.name,
            self.case,
        )
        with self._running(scope), observing(net) as observed:
            yield observed

    @contextmanager
    def loaded(self, place: Place) -> Iterator[None]:
        """Run the tools in the namespace of a load around a block."""
        with self._running(
            Scope(place.client, port=place.port, client=place.address, server=place.address, case=self.case)
        ):
            yield

    @contextmanager
    def _running(self, scope: Scope) -> Iterator[None]:
        with ExitStack() as stack:
            started: list[Running] = []
            for tool in self.tools:
                try:
                    started.append(stack.enter_context(running(tool, scope)))
                except RefusedError as error:
                    self.printed[tool] = Printed(refused=str(error), unknown_case=error.unknown_case)
            yield
            for run in started:
                if run.tool.settle:
                    time.sleep(duration_ns(run.tool.settle) / SECOND)
                run.await_quiet(_QUIET_LIMIT_S)
                run.end()
                before = self.printed.get(run.tool, Printed())
                self.printed[run.tool] = Printed(
                    before.output + run.output, before.stderr + run.stderr, run.process.returncode,
                    before.early if run.ended_early is None else run.ended_early,
                )  # fmt: skip

    def converse(self, net: Topology, conversation: Conversation, *, lport: int | None = None, **how: Any) -> Observed:
        """Hold conversations while the tools watch. `how` as for `lab.traffic.demo.process.converse`."""
        with self.watching(net, lport=lport, rport=self.ports.server) as observed:
            observed.connections += conversed(net, conversation, port=self.ports.server, **how)
        return observed

    def happened(self, experiment: str, net: Topology, *watched: Observed, again: int = 0, errors: int = 0) -> Happened:
        """Return what happened. `again` retransmissions and `errors` of calls were caused on purpose."""
        happened = Happened(
            experiment,
            self.ports.server,
            [net.client.ipv4, net.client.ipv6],
            [net.server.ipv4, net.server.ipv6],
            clocks={
                "monotonic": 0,
                "wall": clock.wall_offset_ns(),
                "boot": time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns(),
            },
        )
        for observed in watched:
            happened.connections += connections_of(observed)
            if any(not it.client.opening.error for it in observed.connections):
                happened.rtt.append(rtt_of(observed))
            happened.log += [
                timeline.to_json() for it in observed.connections for timeline in (it.client, it.server) if timeline
            ]
        # tcp_probe reports the smoothed RTT with each segment that a socket receives in ESTABLISHED, not once for a sample.
        received = sum(it.to_client.packets if it.to_client else _MANY for it in happened.connections)
        happened.smoothed = [Held(it.low_ns, it.high_ns, it.least, received) for it in happened.rtt]
        happened.rtt += [held for observed in watched for held in _of_fins(observed)]
        happened.disturbed = list(_disturbed(watched, again, errors))
        return happened


def _of_fins(observed: Observed) -> Iterator[Held]:
    """Yield the RTT of each client's FIN, which the server may acknowledge late (delayed ACK, RFC 9293, 3.8.6.3)."""
    opened = [it.client for it in observed.connections if not it.client.opening.error]
    low_ns = rtt_of(observed).low_ns if opened else 0
    for client in opened:
        yield Held(low_ns, observed.end_ns - client.closing.enter_ns, 0, 1)


def conversed(net: Topology, conversation: Conversation, **how: Any) -> list[Connection]:
    """Hold conversations and return their connections."""
    with converse(net, conversation, **how) as demo:
        pass
    return demo.connections


def _disturbed(watched: Sequence[Observed], again: int, errors: int) -> Iterator[str]:
    """Yield a sentence for each sign of a disturbance that the experiment did not cause."""
    sent_again = sum(sent.retransmitted for observed in watched for sent in observed.sent)
    if sent_again > again:
        yield f"{sent_again - again} segments were sent again"
    failed = [
        f"{call.name}() of the {timeline.role} failed with {call.error}"
        for observed in watched
        for connection in observed.connections
        for timeline in (connection.client, connection.server)
        if timeline
        for call in timeline.calls
        if call.error and call.error != "EINPROGRESS"
    ]
    if len(failed) > errors:
        yield from failed[:3]
