"""Playing scripts against a kernel's TCP: one end is scripted, the other is a real socket.

The scripted end has an address that no host has, so no kernel answers for it with a RST. The other host has a neighbour
entry for that address. A script (`lab.traffic.crafted.script`) has three kinds of words:

- segments of the scripted end, which are sent;
- segments of the kernel's end, which are awaited;
- calls on the kernel's socket: `connect() accept() shutdown() close() abort()`.

    cS sSA cA accept() 20ms close() sF cR    the client is scripted; its RST arrives in the kernel's FIN_WAIT1
    connect() cS sS cSA sSA 5ms sR           the server is scripted; both ends open (simultaneous open)

A sent segment acknowledges the segments that have been awaited before it. Repeating a word sends the segment again.
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
from lab.traffic.crafted.script_player import UNOWNED, frame, tap
from lab.traffic.crafted.send import Sender, one_processor, wait_until

KERNEL_PORT = 9999
_LIMIT_S = 20.0
_RANGE = 1 << 32
_HEAD = 128
_ANSWERS = {"sA", "cA", "sSA", "cSA", "accept()"}  # steps of a kernel that follow the arrival of all earlier segments


class Step(NamedTuple):
    """A word of a script, and the interval from `low_ns` to `high_ns` in which it happened.

    In this interval a sent segment left its host, an awaited segment left the kernel and arrived, and a call was
    entered and returned.
    """

    word: str
    low_ns: int
    high_ns: int
    sent: bool


@dataclass
class Transcript:
    """A script that was played: its flow, the client first, and its steps without the gaps.

    All segments had arrived by `over_ns`.
    """

    flow: Flow
    steps: list[Step]
    over_ns: int = 0

    def arrived_ns(self, step: Step) -> int:
        """Return a time when a step was over on both hosts; for a sent segment the end of the kernel's next answer."""
        if not step.sent:
            return step.high_ns
        later = self.steps[self.steps.index(step) + 1 :]
        return next((it.high_ns for it in later if it.word in _ANSWERS and not it.sent), self.over_ns)


class Peer:
    """The scripted end of connections with the kernel of the other host; `scripted` is its role.

    `heard` has the flags of every segment that the kernel has sent, in order, by the client's port. It includes
    segments that are in no script, since a kernel retransmits. It is complete when the peer is closed.
    """

    def __init__(
        self, net: Topology, scripted: Literal["client", "server"], version: int = 4, *, backlog: int = 128
    ) -> None:
        """Add the neighbour entry at the other host, and listen there with this `backlog` if it is the server."""
        self._net = net
        self._is_client = scripted == "client"
        here, there = (net.client, net.server) if self._is_client else (net.server, net.client)
        self._netns, self._kernel = there.name, there.address(version)
        self.address = UNOWNED[version][0 if self._is_client else 1]
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
                self._listener.close()  # also removes half-open connections
            await_backlogs()
            self.listen()

    def flow(self, port: int) -> Flow:
        """Return the flow of the connection with this client port, the client first."""
        client, server = (self.address, self._kernel) if self._is_client else (self._kernel, self.address)
        return Flow(client, port, server, KERNEL_PORT)

    def play(self, script: str, port: int) -> Transcript:
        """Play a script with this client port. Raises `LabError` if the kernel deviates from the script."""
        played = Transcript(self.flow(port), [])
        numbers = _Numbers(isn=_RANGE - 2)  # the sequence numbers wrap
        due_ns = since_ns = time.monotonic_ns()
        idle = True
        # The earliest time at which a segment of the kernel can have left, by flags and sequence number. A
        # retransmission keeps the time of the original.
        first: dict[tuple[int, int], int] = {}
        with KernelEnd(self._netns, played.flow, self._listener) as kernel, one_processor():
            for word in script.split():
                if gap_ns := gap_ns_of(word):
                    due_ns += gap_ns
                    continue
                wait_until(due_ns)
                is_call, is_mine = word.endswith("()"), (word[0] == "c") == self._is_client
                before_ns = time.monotonic_ns()
                # The kernel's next segment is caused by the calls and segments since its last one.
                since_ns = before_ns if idle and (is_call or is_mine) else since_ns
                idle = not (is_call or is_mine)
                if is_call:
                    kernel.call(word[:-2])
                elif is_mine:
                    self._sender.send(frame(self._net, played.flow, numbers.next(word, by_client=self._is_client)))
                else:
                    row = self._await(played, word, set(first), numbers.end)
                    numbers.take(row)
                    before_ns = first.setdefault((int(row["flags"]), int(row["seq"])), since_ns)
                due_ns = time.monotonic_ns()
                played.steps.append(Step(word, before_ns, due_ns, is_mine and not is_call))
            await_backlogs()
            played.over_ns = time.monotonic_ns()
        return played

    def syns(self, ports: Iterable[int]) -> dict[int, tuple[int, int]]:
        """Send a SYN from each of these ports without waiting for answers; return the times before and after each."""
        flood = [
            (port, frame(self._net, self.flow(port), Segment(by_client=True, flags=SYN, seq=port, ack=0)))
            for port in ports
        ]
        with one_processor():
            return {port: self._sender.send(data) for port, data in flood}

    def listen(self) -> None:
        """Read all frames that have arrived."""
        self._tap.setblocking(False)  # noqa: FBT003 (the method's only argument)
        try:
            while True:
                self._hear()
        except BlockingIOError:
            self._tap.settimeout(_LIMIT_S)

    def _await(self, played: Transcript, word: str, repeated: set[tuple[int, int]], end: int) -> np.void:
        """Return the kernel's next segment with the flags of `word`.

        Acknowledgements and `repeated` segments before it are skipped; any other segment is an error. An awaited
        acknowledgement must have the number `end`, which covers all sent segments.
        """
        deadline = time.monotonic() + _LIMIT_S
        waiting = self._waiting[played.flow.lport]
        while time.monotonic() < deadline:
            while waiting:
                row = waiting.popleft()
                if row["flags"] == FLAGS[word[1:]] and (row["flags"] != ACK or row["ack"] == end):
                    return row
                if row["flags"] != ACK and (int(row["flags"]), int(row["seq"])) not in repeated:
                    flags = flags_text(int(row["flags"]))
                    raise LabError(
                        f"the kernel sent {flags} where the script of {played.flow} has `{word}`: correct the script"
                    )
            with suppress(TimeoutError):
                self._hear()
        raise LabError(
            f"the kernel did not send `{word}` of the script of {played.flow} within {_LIMIT_S:g} s: correct the script"
        )

    def _hear(self) -> None:
        """Read the next frame, and keep its segment if it is for this address."""
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
    """Sequence and acknowledgement numbers of the scripted end, which sends no data."""

    isn: int
    finished: bool = False
    ack: int = 0

    @property
    def end(self) -> int:
        """The sequence number after the last sent segment, which the kernel acknowledges. A SYN must have been sent."""
        return (self.isn + 1 + self.finished) % _RANGE

    def next(self, word: str, *, by_client: bool) -> Segment:
        """Return the segment of a word. Raises `ValueError` for an unknown word."""
        if word[1:] not in FLAGS:
            raise ValueError(f"`{word}` is not a word of a script against a kernel: write it like cS or sSA")
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
