"""TCP made by hand against a kernel's own TCP: one end is sent and awaited segment by segment, the other is a real socket.

The hand-made end has an address that no kernel has, so that none answers for it with a RST; the other host's kernel is told where it
is. What is played is a story (`lab.traffic.crafted.script`): the words of the hand-made end are sent, the
other's are awaited, and `connect() accept() shutdown() close() abort()` are calls on the kernel's socket.

    cS sSA cA accept() 20ms close() sF cR    the client is made by hand; its RST comes in the kernel's FIN_WAIT1
    connect() cS sS cSA sSA 5ms sR           the server is, and opens as well

What is sent acknowledges what has been awaited by then, and nothing else. A word that is said again is sent again.
"""

import socket
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, NamedTuple, Self

import numpy as np

from lab.errors import LabError
from lab.linux.grace_period import await_backlogs
from lab.linux.netns import inside
from lab.network import segment_parser as wire
from lab.network.topology import Topology
from lab.packet import ACK, FIN, SYN, flags_text
from lab.tcp import Flow, address_text
from lab.traffic.crafted.kernel_socket import KernelEnd
from lab.traffic.crafted.script import FLAGS, Segment, gap_ns_of
from lab.traffic.crafted.script_player import NOBODY, frame, tap
from lab.traffic.crafted.send import Sender, one_processor, wait_until

KERNEL_PORT = 9999
_LIMIT_S = 20.0
_RANGE = 1 << 32
_HEAD = 128
_ANSWERS = {"sA", "cA", "sSA", "cSA", "accept()"}  # what a kernel does because of what has come; the wire is in order


class Step(NamedTuple):
    """A word of a story and when it happened: after `low_ns` and before `high_ns`.

    A segment that was sent left its host then; one that was awaited left the kernel and arrived; a call was entered and returned.
    """

    word: str
    low_ns: int
    high_ns: int
    sent: bool


@dataclass
class Told:
    """A story that was played: its flow, the client first, and its steps, gaps left out.

    By `over_ns` everything had arrived that was sent by then.
    """

    flow: Flow
    steps: list[Step]
    over_ns: int = 0

    def arrived_ns(self, step: Step) -> int:
        """Return a time at which a step was over on both hosts: for a segment that was sent, when something had come of it."""
        if not step.sent:
            return step.high_ns
        later = self.steps[self.steps.index(step) + 1 :]
        return next((it.high_ns for it in later if it.word in _ANSWERS and not it.sent), self.over_ns)


class Peer:
    """The hand-made end of connections with the kernel of the other host; `by_hand` says which of the two roles it has.

    `heard` has the control bits of every segment that the kernel has sent, in order, by the client's port: also of those that no
    story asks for, since a kernel repeats what is not acknowledged in time. It is complete when the peer is closed.
    """

    def __init__(
        self, net: Topology, by_hand: Literal["client", "server"], version: int = 4, *, backlog: int = 128
    ) -> None:
        """Take an address, let the other host's kernel know it, and listen there with this `backlog` if it is the server."""
        self._net = net
        self._is_client = by_hand == "client"
        here, there = (net.client, net.server) if self._is_client else (net.server, net.client)
        self._netns, self._kernel = there.name, there.address(version)
        self.address = NOBODY[version][0 if self._is_client else 1]
        there.knows(self.address, here.mac)
        self.heard: dict[int, list[int]] = defaultdict(list)
        self._waiting: dict[int, deque[np.void]] = defaultdict(deque)
        self._listener = inside(there.name, lambda: _listener(self._kernel, backlog)) if self._is_client else None
        self._sender = Sender(here.name)
        self._tap = inside(here.name, tap)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._sender, self._tap:
            if self._listener:
                self._listener.close()  # and with it what was half-open
            await_backlogs()
            self.listen()

    def flow(self, port: int) -> Flow:
        """Return the flow of a connection whose client has this port, the client first."""
        client, server = (self.address, self._kernel) if self._is_client else (self._kernel, self.address)
        return Flow(client, port, server, KERNEL_PORT)

    def play(self, story: str, port: int) -> Told:
        """Play a story, with this client's port, to its end. Raises `LabError` when the kernel does not do what it tells."""
        told = Told(self.flow(port), [])
        numbers = _Numbers(isn=_RANGE - 2)  # they wrap
        due_ns = since_ns = time.monotonic_ns()
        idle = True
        # Since when a segment of the kernel can have left, by its flags and number: it may be sent again.
        first: dict[tuple[int, int], int] = {}
        with KernelEnd(self._netns, told.flow, self._listener) as kernel, one_processor():
            for word in story.split():
                if gap_ns := gap_ns_of(word):
                    due_ns += gap_ns
                    continue
                wait_until(due_ns)
                is_call, is_mine = word.endswith("()"), (word[0] == "c") == self._is_client
                before_ns = time.monotonic_ns()
                # What the kernel sends next has been caused by what was done since it last did.
                since_ns = before_ns if idle and (is_call or is_mine) else since_ns
                idle = not (is_call or is_mine)
                if is_call:
                    kernel.call(word[:-2])
                elif is_mine:
                    self._sender.send(frame(self._net, told.flow, numbers.next(word, by_client=self._is_client)))
                else:
                    row = self._await(told, word, set(first), numbers.end)
                    numbers.take(row)
                    before_ns = first.setdefault((int(row["flags"]), int(row["seq"])), since_ns)
                due_ns = time.monotonic_ns()
                told.steps.append(Step(word, before_ns, due_ns, is_mine and not is_call))
            await_backlogs()
            told.over_ns = time.monotonic_ns()
        return told

    def syns(self, ports: Iterable[int]) -> dict[int, tuple[int, int]]:
        """Send a SYN from each of these ports, as fast as can be, and await nothing; returns the times before and after each."""
        flood = [(port, frame(self._net, self.flow(port), Segment(True, SYN, port, 0))) for port in ports]  # noqa: FBT003 (of a tuple)
        with one_processor():
            return {port: self._sender.send(data) for port, data in flood}

    def listen(self) -> None:
        """Hear what has come by now."""
        self._tap.setblocking(False)  # noqa: FBT003 (the method's only argument)
        try:
            while True:
                self._hear()
        except BlockingIOError:
            self._tap.settimeout(_LIMIT_S)

    def _await(self, told: Told, word: str, repeated: set[tuple[int, int]], end: int) -> np.void:
        """Return the kernel's next segment, which is what the word says; others may be acknowledgements or `repeated`.

        An acknowledgement is awaited of everything that was sent, up to the sequence number `end`.
        """
        deadline = time.monotonic() + _LIMIT_S
        waiting = self._waiting[told.flow.lport]
        while time.monotonic() < deadline:
            while waiting:
                row = waiting.popleft()
                if row["flags"] == FLAGS[word[1:]] and (row["flags"] != ACK or row["ack"] == end):
                    return row
                if row["flags"] != ACK and (int(row["flags"]), int(row["seq"])) not in repeated:
                    flags = flags_text(int(row["flags"]))
                    raise LabError(
                        f"the kernel sent {flags} where the story of {told.flow} says `{word}`: tell it otherwise"
                    )
            with suppress(TimeoutError):
                self._hear()
        raise LabError(f"the kernel did not send what the story of {told.flow} says, `{word}`, within {_LIMIT_S:g} s")

    def _hear(self) -> None:
        """Wait for the next frame, and keep its segment if it is one for this address."""
        data, where = self._tap.recvfrom(1 << 17)
        if where[2] == socket.PACKET_OUTGOING:
            return
        head = np.frombuffer(data[:_HEAD].ljust(_HEAD, b"\0"), np.uint8)[None, :]
        for row in wire.parse(head, np.array([len(data)], np.uint32)):
            if address_text(row["daddr"].tobytes()) == self.address:
                port = int(row["dport" if self._is_client else "sport"])
                self.heard[port].append(int(row["flags"]))
                self._waiting[port].append(row)


@dataclass
class _Numbers:
    """Sequence numbers of the hand-made end, which sends no data, and what it has taken of the other's."""

    isn: int
    finished: bool = False
    ack: int = 0

    @property
    def end(self) -> int:
        """The sequence number behind all that was sent; there is always a SYN when something is acknowledged."""
        return (self.isn + 1 + self.finished) % _RANGE

    def next(self, word: str, *, by_client: bool) -> Segment:
        """Return the segment of a word; raises `ValueError` for what is none."""
        if word[1:] not in FLAGS:
            raise ValueError(f"`{word}` is no word of a story that a kernel takes part in")
        flags = FLAGS[word[1:]]
        after_syn = 0 if flags & SYN else 1 + (self.finished and not flags & FIN)
        self.finished |= bool(flags & FIN)
        return Segment(by_client, flags, (self.isn + after_syn) % _RANGE, self.ack if flags & ACK else 0)

    def take(self, row: np.void) -> None:
        """Count a segment as received."""
        length = int(row["payload"]) + bool(row["flags"] & SYN) + bool(row["flags"] & FIN)
        self.ack = (int(row["seq"]) + length) % _RANGE if length else self.ack


def _listener(address: str, backlog: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, KERNEL_PORT), family=family, backlog=backlog)
    listener.settimeout(_LIMIT_S)
    return listener
