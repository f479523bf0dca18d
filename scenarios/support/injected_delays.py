"""One connection whose requests are each delayed in exactly one place, and a bracket for the layer of that place.

The brackets come from timestamps and from three facts:

- Data was ready at the latest when FIONREAD reported it.
- Data had left TCP at the latest when SIOCOUTQNSD reported nothing unsent.
- A reader did not run while a process of a higher scheduling class occupied its processor.
"""

import fcntl
import os
import platform
import socket
import struct
import termios
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from lab.linux.netns import inside
from lab.network.conditions import Conditions
from lab.network.frame_log import Direction, hold_ns
from lab.network.token_bucket import departures_ns, token_bucket
from lab.probes.layers.judge import judge_request, requests_by_flow
from lab.probes.layers.requests import LEGS, requests
from lab.probes.layers.stages import LAYERS
from lab.truth.requests import Exchange, exchanges
from lab.units import MS
from lab.verdict import Bracket
from support.lockstep import conversing

SIZE = 1400
DELAYS_NS = (2 * MS, 7 * MS, 20 * MS)
BURST = 1600
DRAIN = 1500
LIMIT_S = 20

_ETHERNET, _IP, _UDP, _TCP = 14, {4: 20, 6: 40}, 8, 32
_SIOCOUTQNSD = 0x894B
_WAITS = {"x86_64": ("45", "7"), "aarch64": ("207", "73")}[platform.machine()]  # recvfrom; poll, ppoll


@dataclass(frozen=True)
class Injected:
    """A request delayed by at least `delay_ns` in one layer of one leg (0: request, 1: reply), and its bracket."""

    leg: int
    layer: str
    delay_ns: int
    exchange: Exchange
    truth: Bracket


class Delays:
    """Ways to delay a request on one connection.

    Each method returns the leg, the layer, and the least time (ns) of the layer.
    """

    def __init__(self, net, talk, version, hog):
        self.net, self.talk, self.version, self.hog = net, talk, version, hog

    def wire(self, delay_ns):
        """Delay the request's frame on the wire."""
        return self._on_the_wire(0, Direction.TO_SERVER, Conditions(delay_ns=delay_ns), Conditions())

    def wire_back(self, delay_ns):
        """Delay the reply's frame on the wire."""
        return self._on_the_wire(1, Direction.TO_CLIENT, Conditions(), Conditions(delay_ns=delay_ns))

    def _on_the_wire(self, leg, direction, *conditions):
        self.net.conditions(*conditions)
        since_ns = time.monotonic_ns()
        self.talk.exchange(SIZE)
        frames = self.net.link.log().going(direction)
        frames = frames[(frames["arrived_low_ns"] >= since_ns) & (frames["length"] > SIZE)]
        self.net.conditions(Conditions(), Conditions())
        return leg, "wire", int(hold_ns(frames[:1])[0][0])

    def bucket(self, delay_ns):
        """Let the request wait for tokens in the client's qdisc, after a datagram that takes most of the tokens."""
        frames = [_ETHERNET + _IP[4] + _UDP + DRAIN - 28, _ETHERNET + _IP[self.version] + _TCP + SIZE]
        rate_bps = (sum(frames) - BURST) * 8 * 1_000_000_000 // delay_ns // 8 * 8
        client = self.talk.client
        with (
            token_bucket(self.net.client, rate_bps=rate_bps, burst_bytes=BURST),
            inside(self.net.client.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as drain,
        ):
            drained_ns = time.monotonic_ns()
            drain.sendto(bytes(DRAIN - 28), (self.net.server.ipv4, 9))
            asked_ns = time.monotonic_ns()
            client.send(bytes(SIZE))
            sent_ns = self._until(lambda: _asked(self.talk.raw, _SIOCOUTQNSD) == 0)
            self._answer()
        leaves_ns = departures_ns(zip((drained_ns, asked_ns), frames, strict=True), rate_bps, BURST, drained_ns)
        return 0, "qdisc", leaves_ns[-1] - sent_ns

    def late_server(self, delay_ns):
        """Let the server call read() some time after the request has arrived."""
        self.talk.client.send(bytes(SIZE))
        ready_ns = self._ready(self.talk.server.socket)
        self.talk.server.sleep(delay_ns)
        self._answer()
        return 0, "queue", self._last("server", "recv").enter_ns - ready_ns

    def thinking_server(self, delay_ns):
        """Let the server sleep between read() and write()."""
        self.talk.client.send(bytes(SIZE))
        self.talk.server.recv(SIZE)
        self.talk.server.sleep(delay_ns)
        self.talk.server.send(bytes(SIZE))
        self.talk.client.recv(SIZE)
        return 1, "application", self._last("server", "send").enter_ns - self._last("server", "recv").exit_ns

    def late_client(self, delay_ns):
        """Let the client call read() some time after the reply has arrived."""
        talk = self.talk
        talk.client.send(bytes(SIZE))
        talk.server.recv(SIZE)
        talk.server.send(bytes(SIZE))
        ready_ns = self._ready(talk.raw)
        talk.client.sleep(delay_ns)
        talk.client.recv(SIZE)
        return 1, "queue", self._last("client", "recv").enter_ns - ready_ns

    def hogged_server(self, delay_ns):
        """Let the hog occupy the processor of a server that sleeps in read()."""
        return self._hogged(delay_ns, self._read_there)

    def hogged_poll(self, delay_ns):
        """Let the hog occupy the processor of a server that sleeps in poll() before it reads."""
        return self._hogged(delay_ns, self._poll_there)

    def _hogged(self, delay_ns, read):
        """Delay a request with the hog.

        If the hog was preempted too early, the request is a plain one, and another is sent.
        """
        deadline = time.monotonic() + LIMIT_S
        while (held_ns := self._held(delay_ns, read)) < delay_ns:
            assert time.monotonic() < deadline, "the hog was preempted too early every time"
        return 0, "wake_up", held_ns

    def _held(self, delay_ns, read):
        """Return the least time (ns) that a request was ready and its reader had no processor; negative if too late."""
        reader = threading.Thread(target=read)
        reader.start()
        self._until(lambda: _sleeps(reader.native_id))
        with self.hog.spinning():
            self.talk.client.send(bytes(SIZE))
            ready_ns = self._until(lambda: _readable(self.talk.server.socket) or self.hog.over())
            over_ns = self.hog.spin_until(ready_ns + delay_ns)
        reader.join()
        self.talk.server.send(bytes(SIZE))
        self.talk.client.recv(SIZE)
        return over_ns - ready_ns

    def _read_there(self):
        os.sched_setaffinity(0, {self.hog.cpu})
        self.talk.server.recv(SIZE)

    def _poll_there(self):
        os.sched_setaffinity(0, {self.hog.cpu})
        self.talk.server.poll()
        self.talk.server.recv(SIZE)

    def _answer(self):
        self.talk.server.recv(SIZE)
        self.talk.server.send(bytes(SIZE))
        self.talk.client.recv(SIZE)

    def _last(self, side, name):
        calls = getattr(self.talk, side).timeline.calls
        return next(call for call in reversed(calls) if call.name == name)

    def _ready(self, sock):
        return self._until(lambda: _readable(sock))

    def _until(self, holds):
        """Wait until a condition holds; return a time at which it holds."""
        deadline = time.monotonic() + LIMIT_S
        while not holds():
            assert time.monotonic() < deadline, f"the condition did not become true within {LIMIT_S} s"
        return time.monotonic_ns()


PLACES = (
    "wire",
    "wire_back",
    "bucket",
    "late_server",
    "thinking_server",
    "late_client",
    "hogged_server",
    "hogged_poll",
)


def inject(net, version, hog, places=PLACES, delays_ns=DELAYS_NS):
    """Delay requests in each place by each delay; return the injected delays and the connection."""
    injected = []
    with conversing(net, version) as talk:
        delays = Delays(net, talk, version, hog)
        talk.exchange(SIZE)
        for place in places:
            for delay_ns in delays_ns:
                leg, layer, least_ns = getattr(delays, place)(delay_ns)
                requests_sent = sum(call.name == "send" for call in talk.client.timeline.calls)
                injected.append((leg, layer, delay_ns, least_ns, requests_sent))
            talk.exchange(SIZE)
    (connection,) = talk.connections
    return matched(injected, exchanges(connection)), connection


def matched(injected, every):
    """Return each delay with its exchange: the last one that had been sent then.

    One plain exchange follows all of them.
    """
    assert len(every) == injected[-1][-1] + 1
    found = []
    for leg, layer, delay_ns, least_ns, number in injected:
        exchange = every[number - 1]
        longest_ns = (
            exchange.application.high if layer == "application" else (exchange.request, exchange.reply)[leg].travel.high
        )
        truth = Bracket.early(max(0, least_ns), longest_ns)
        found.append(Injected(leg, layer, delay_ns, exchange, truth))
    return found


def throttle(host, rate, burst):
    """Limit a host, for good, to `rate` bytes a second and `burst` bytes at once, with a token bucket (TBF)."""

    def add():
        with IPRoute() as netlink:
            netlink.tc("add", "tbf", host.ifindex, handle="1:", rate=rate, burst=burst, limit=1 << 20)

    inside(host.name, add)


def _asked(sock, what):
    """Return a number of bytes that an ioctl of a socket reports."""
    return struct.unpack("=i", fcntl.ioctl(sock, what, bytes(4)))[0]


def _readable(sock):
    """Return whether a whole message can be read."""
    return _asked(sock, termios.FIONREAD) >= SIZE


def _sleeps(thread):
    """Return whether a thread of this process sleeps in recvfrom() or poll(), from proc_pid_syscall(5)."""
    return Path(f"/proc/self/task/{thread}/syscall").read_text(encoding="utf-8").split()[0] in _WAITS


def verdicts(judge, stages, injected, connection):
    """Yield the checks of every request, and for each delay that it is in its layer and in no other."""
    rows = requests(stages, connection.client.flow.rport).rows
    rows = requests_by_flow(rows).get(connection.client.flow, rows[:0])
    every = exchanges(connection)
    yield judge.equal(str(connection.client.flow), "requests with a reply", len(every), len(rows))
    for exchange, row in zip(every, rows, strict=False):
        yield from judge_request(judge, exchange, row)
        for it in injected:
            if it.exchange == exchange:
                layer_ns = int(row["layers_ns"][it.leg][LAYERS.index(it.layer)])
                subject = f"{connection.client.flow}, delayed by {it.delay_ns / MS:g} ms"
                yield judge.duration(subject, f"{LEGS[it.leg]} {it.layer}", it.truth, layer_ns)
                yield judge.duration(
                    subject, f"all but {it.layer}", exchange.others(it.truth), int(row["total_ns"]) - layer_ns
                )
