"""How true the relay's delays are, and how much it can carry: `python -m lab.bench.wire`, as root, on an idle machine."""

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from lab.conditions import Conditions
from lab.netns import inside
from lab.topology import Host, Topology, topology
from lab.units import MS, SECOND
from lab.wire.log import Direction, WireLog, hold_ns
from lab.wire.relay import Relay

DELAYS_MS = (0, 1, 5, 20, 100)
PORT = 9
_LONG_NS = 200_000
_FORK = multiprocessing.get_context("fork")


class Row(NamedTuple):
    """One measurement. `p50_us` and `p99_us` are of the achieved minus the configured one-way delay, to the frame's handing over."""

    what: str
    achieved: str
    p50_us: float
    p99_us: float
    max_us: float
    cpu_percent: float  # of one processor, the relay's own
    faults: str


def main() -> None:
    """Measure everything and print a table."""
    rows = [paced(0, 1000, 3.0, awake=True), *(paced(delay_ms, 1000, 3.0) for delay_ms in DELAYS_MS)]
    rows += [paced(1, 1000, 3.0, both_ways=True), paced(1, 100_000, 2.0), paced(1, 50_000, 2.0, both_ways=True)]
    rows += [stream(delay_ms, 3.0) for delay_ms in (0, 1)]
    print(
        tabulate(rows, headers=["relay", "achieved", "p50 us", "p99 us", "max us", "CPU %", "faults"], floatfmt=".1f")
    )


def paced(delay_ms: int, per_second: int, seconds: float, *, both_ways: bool = False, awake: bool = False) -> Row:
    """Send UDP frames of 64 bytes at an even rate, from the client or from both hosts; `awake` as the relay has it."""

    def traffic(net: Topology, stack: ExitStack) -> None:
        ends = [stack.enter_context(_bound(host)) for host in (net.client, net.server)]
        addresses = [end.getsockname() for end in ends]
        for end, peer in zip(ends, reversed(addresses), strict=True):
            end.connect(peer)
        senders = [_FORK.Process(target=_send, args=(end, per_second, seconds)) for end in ends[: 1 + both_ways]]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()

    relay = Relay(log_frames=int((1 + both_ways) * per_second * seconds) + 1000, awake=awake)
    log, took_ns, cpu_ns = _measured(relay, delay_ms, traffic)
    notes = (" each way" if both_ways else "") + (", kept awake" if awake else "")
    what = f"{delay_ms} ms, {per_second:,} frames/s{notes}"
    return _row(what, f"{len(log.frames) * SECOND / took_ns:,.0f} frames/s", log, delay_ms, cpu_ns / took_ns)


def stream(delay_ms: int, seconds: float) -> Row:
    """Send one TCP stream from the client to the server as fast as it goes."""
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
        # The only one that is allowed in every namespace and does not pace itself.
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        thread = threading.Thread(target=drain, args=(listener,))
        thread.start()
        client.connect(listener.getsockname())
        end, chunk = time.monotonic() + seconds, bytes(1 << 18)
        while time.monotonic() < end:
            client.sendall(chunk)
        client.close()
        thread.join()

    log, took_ns, cpu_ns = _measured(Relay(log_frames=4_000_000), delay_ms, traffic)
    rate = f"{received * 8 / took_ns:.2f} Gbit/s"
    return _row(f"{delay_ms} ms, one TCP stream", rate, log, delay_ms, cpu_ns / took_ns)


def _measured(relay: Relay, delay_ms: int, traffic: Callable[[Topology, ExitStack], None]) -> tuple[WireLog, int, int]:
    conditions = Conditions(delay_ns=delay_ms * MS)
    with topology(relay) as net:
        net.conditions(conditions, conditions)
        start_ns, cpu_ns = time.monotonic_ns(), _cpu_ns(relay.pid)
        with ExitStack() as stack:
            traffic(net, stack)
        took_ns, cpu_ns = time.monotonic_ns() - start_ns, _cpu_ns(relay.pid) - cpu_ns
        while relay.log(lossy=True).waiting:
            time.sleep(0.01)
        return relay.log(lossy=True), took_ns, cpu_ns


def _row(what: str, achieved: str, log: WireLog, delay_ms: int, cpu: float) -> Row:
    frames = log.going(Direction.TO_SERVER)
    error_us = (hold_ns(frames)[0] - delay_ms * MS) / 1000
    p50, p99 = np.percentile(error_us, (50, 99))
    faults = ", ".join(f"{count} {fault}" for fault, count in log.faults.items()) or "none"
    return Row(what, achieved, p50, p99, error_us.max(), 100 * cpu, faults)


def _bound(host: Host) -> socket.socket:
    """Return a UDP socket on its host. Nobody needs to read from it: the log of the wire tells what came through."""
    end = inside(host.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    end.bind((host.ipv4, PORT))
    return end


def _send(end: socket.socket, per_second: int, seconds: float) -> None:
    payload, gap_ns = bytes(64 - 14 - 20 - 8), SECOND // per_second
    start_ns = time.monotonic_ns()
    for number in range(int(per_second * seconds)):
        while (wait_ns := start_ns + number * gap_ns - time.monotonic_ns()) > 0:
            # Two processors have to do for senders and relay: whoever has time sleeps.
            if wait_ns > _LONG_NS:
                time.sleep(wait_ns / SECOND)
        end.send(payload)


def _cpu_ns(pid: int) -> int:
    """How long a process has run. Source: schedstat, nanoseconds on a processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


if __name__ == "__main__":
    main()
