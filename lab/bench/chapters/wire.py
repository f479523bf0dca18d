"""Accuracy of the relay's delays, and its throughput.

UDP frames of 64 bytes are sent at an even rate, by the client or by both hosts; then one TCP stream, as fast as
possible.

- `late`: achieved minus configured one-way delay, until the relay has sent the frame: median, 99th percentile and
  maximum.
- `lost`: share of frames that the relay dropped although no drop was configured.
- `awake`: the relay keeps all CPUs out of idle states (`lab.network.relay`).
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lab.arrays import Integers
from lab.bench.context import Bench, explained
from lab.bench.forked import forked
from lab.linux.netns import inside
from lab.network.conditions import Conditions
from lab.network.frame_log import Direction, hold_ns
from lab.network.relay import Relay
from lab.network.topology import Host, Topology, topology
from lab.results.measurement import Condition, Goal, Measurement
from lab.units import MS, SECOND

FIGURE = "wire"
PORT = 9
_RELAY = "lab (relay)"
_DELAYS_MS = (0, 1, 5, 20, 100)
_GOALS = {"late, p50": Goal(least=False, value=10_000), "late, p99": Goal(least=False, value=150_000)}
_ALL_CARRIED = Goal(least=False, value=0)
_GIGABIT = Goal(least=True, value=1.0)
_LONG_NS = 200_000


class Paced(NamedTuple):
    """Frames at an even rate from one host or both, over a wire with this delay in each direction."""

    delay_ms: int
    per_second: int = 1000
    both_ways: bool = False
    awake: bool = False

    @property
    def conditions(self) -> dict[str, Condition]:
        """Conditions of the measurement's row."""
        options = {"both ways": self.both_ways, "awake": self.awake}
        enabled = {name: True for name, value in options.items() if value}
        return {"delay": f"{self.delay_ms} ms", "frames a second": self.per_second, **enabled}


_CASES = (
    Paced(0, awake=True),
    *(Paced(delay_ms) for delay_ms in _DELAYS_MS),
    Paced(1, both_ways=True),
    Paced(1, 100_000),
    Paced(1, 50_000, both_ways=True),
)


class OnWire(NamedTuple):
    """One measurement: lateness and number of frames, unintended drops, total time, and CPU time of the relay."""

    late_ns: Integers
    frames: int
    dropped: int
    took_ns: int
    cpu_ns: int


def measure(bench: Bench) -> Iterator[Measurement]:
    """Measure all rates and delays in each repetition."""
    repetitions, seconds = bench.times(3, 1), 2.0 if not bench.quick else 0.5
    runs: dict[Paced, list[OnWire]] = {case: [] for case in _CASES}
    streams: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(repetitions):
        for case, found in runs.items():
            bench.step(f"wire: {case.delay_ms} ms, {case.per_second:,} frames/s")
            found.append(_paced(case, seconds))
        for delay_ms, rates in streams.items():
            bench.step(f"wire: {delay_ms} ms, one TCP stream")
            rates.append(_stream(delay_ms, seconds))
    for case, found in runs.items():
        yield from _rows(case, found)
    for delay_ms, rates in streams.items():
        yield Measurement(FIGURE, _RELAY, "one TCP stream", "Gbit/s", rates, {"delay": f"{delay_ms} ms"}, _GIGABIT)


def _rows(case: Paced, runs: list[OnWire]) -> Iterator[Measurement]:
    """Yield the rows of one case. The goals of lateness apply to 1000 frames per second, the goal of no loss to all."""
    goals = _GOALS if case.per_second == 1000 else {}
    for quantity, percentile in (("late, p50", 50), ("late, p99", 99), ("late, most", 100)):
        late_ns = [float(np.percentile(run.late_ns, percentile)) for run in runs]
        row = Measurement(FIGURE, _RELAY, quantity, "ns", late_ns, case.conditions, goals.get(quantity))
        latest_us = max(run.late_ns.max() for run in runs) / 1000
        yield explained(
            row,
            f"the latest frame was {latest_us:.0f} us late, and the relay ran {_busy(runs):.0%} of the time",
        )
    for quantity, unit, values, goal in (
        ("carried", "1/s", [run.frames * SECOND / run.took_ns for run in runs], None),
        ("lost", "fraction", [run.dropped / max(1, run.frames) for run in runs], _ALL_CARRIED),
        ("processor time of the relay", "fraction", [_busy([run]) for run in runs], None),
    ):
        yield Measurement(FIGURE, _RELAY, quantity, unit, values, case.conditions, goal)


def _busy(runs: list[OnWire]) -> float:
    """CPU time of the relay as a share of the total time."""
    return sum(run.cpu_ns for run in runs) / sum(run.took_ns for run in runs)


def _paced(case: Paced, seconds: float) -> OnWire:
    """Send frames at an even rate."""

    def traffic(net: Topology, stack: ExitStack) -> None:
        ends = [stack.enter_context(_bound(host)) for host in (net.client, net.server)]
        addresses = [end.getsockname() for end in ends]
        for end, peer in zip(ends, reversed(addresses), strict=True):
            end.connect(peer)
        senders = [forked(_send, end, case.per_second, seconds) for end in ends[: 1 + case.both_ways]]
        for sender in senders:
            sender.join()

    frames = int((1 + case.both_ways) * case.per_second * seconds)
    return _carried(Relay(log_frames=frames + 1000, awake=case.awake), case.delay_ms, traffic)


def _stream(delay_ms: int, seconds: float) -> float:
    """Send one TCP stream from the client to the server as fast as possible. Return Gbit/s."""
    received = 0

    def drain(listener: socket.socket) -> None:
        nonlocal received
        connection, _ = listener.accept()
        buffer = bytearray(1 << 20)
        with connection:
            while size := connection.recv_into(buffer):
                received += size

    def traffic(net: Topology, stack: ExitStack) -> None:
        create = partial(socket.create_server, (net.server.ipv4, PORT))
        listener = stack.enter_context(inside(net.server.name, create))
        client = stack.enter_context(inside(net.client.name, socket.socket))
        # Reno is allowed in every namespace, and it does not pace.
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        thread = threading.Thread(target=drain, args=(listener,))
        thread.start()
        client.connect(listener.getsockname())
        end, chunk = time.monotonic() + seconds, bytes(1 << 18)
        while time.monotonic() < end:
            client.sendall(chunk)
        client.close()
        thread.join()

    took_ns = _carried(Relay(log_frames=4_000_000), delay_ms, traffic).took_ns
    return received * 8 / took_ns


def _carried(relay: Relay, delay_ms: int, traffic: Callable[[Topology, ExitStack], None]) -> OnWire:
    conditions = Conditions(delay_ns=delay_ms * MS)
    with topology(relay) as net:
        net.conditions(conditions, conditions)
        start_ns, cpu_ns = time.monotonic_ns(), _cpu_ns(relay.pid)
        with ExitStack() as stack:
            traffic(net, stack)
        took_ns, cpu_ns = time.monotonic_ns() - start_ns, _cpu_ns(relay.pid) - cpu_ns
        while relay.log(lossy=True).waiting:
            time.sleep(0.01)
        log = relay.log(lossy=True)
    late_ns = hold_ns(log.going(Direction.TO_SERVER))[0] - delay_ms * MS
    return OnWire(late_ns, len(log.frames), sum(log.faults.values()), took_ns, cpu_ns)


def _bound(host: Host) -> socket.socket:
    """Return a UDP socket in its host's namespace. It is not read: the wire's log has the arrivals."""
    end = inside(host.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    end.bind((host.ipv4, PORT))
    return end


def _send(end: socket.socket, per_second: int, seconds: float) -> None:
    payload, gap_ns = bytes(64 - 14 - 20 - 8), SECOND // per_second
    start_ns = time.monotonic_ns()
    for number in range(int(per_second * seconds)):
        while (wait_ns := start_ns + number * gap_ns - time.monotonic_ns()) > 0:
            # Senders and relay share two processors: sleep if the wait is long.
            if wait_ns > _LONG_NS:
                time.sleep(wait_ns / SECOND)
        end.send(payload)


def _cpu_ns(pid: int) -> int:
    """CPU time of a process in nanoseconds: the first field of /proc/<pid>/schedstat."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="utf-8").split()[0])
