"""A token bucket at the sender: a delay that arises in the sending host's queue and nowhere else, and what it must be."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute

from lab.errors import LabError
from lab.linux.netns import inside
from lab.network import qdisc
from lab.network.link import DEVICE
from lab.network.topology import Host

_NS = 1_000_000_000


@contextmanager
def token_bucket(host: Host, *, rate_bps: int, burst_bytes: int = 1600, limit_bytes: int = 1 << 20) -> Iterator[None]:
    """Let a host send `burst_bytes` at once and `rate_bps` (bit/s of whole Ethernet frames) in the long run, for the block.

    Up to `limit_bytes` wait in the queue, what is more is dropped. A frame larger than the burst never leaves, so it holds at
    least one of the largest. Raises `LabError` for less, and where the kernel has no tbf.
    """
    if rate_bps < 8:
        raise LabError(f"a token bucket of {rate_bps} bit/s lets nothing pass: give a rate of 8 or more")
    if burst_bytes < 1514:
        raise LabError(f"a burst of {burst_bytes} bytes holds no whole frame: give 1514 or more")
    if limit_bytes < burst_bytes:
        raise LabError(f"a queue of {limit_bytes} bytes holds no burst of {burst_bytes}: give a larger limit")
    options = qdisc.tbf(rate_bps // 8, burst_bytes, limit_bytes)

    def fill() -> None:
        with IPRoute() as netlink:
            qdisc.replace(netlink, _index(netlink), "tbf", options)

    def empty() -> None:
        with IPRoute() as netlink:
            qdisc.remove(netlink, _index(netlink))

    inside(host.name, fill)
    try:
        yield
    finally:
        inside(host.name, empty)


def departures_ns(frames: Iterable[tuple[int, int]], rate_bps: int, burst_bytes: int, full_at_ns: int = 0) -> list[int]:
    """When frames, given as (time of queueing, bytes), may leave a bucket that was full at `full_at_ns`, at the earliest.

    As `tbf_dequeue()` counts: tokens are nanoseconds of transmission, and a frame leaves when the bucket holds its own.
    """
    bytes_per_second = rate_bps // 8
    capacity_ns = tokens_ns = burst_bytes * _NS // bytes_per_second
    checked_ns, times = full_at_ns, []
    for queued_ns, length in frames:
        cost_ns = length * _NS // bytes_per_second
        now_ns = max(queued_ns, checked_ns)
        tokens_ns = min(capacity_ns, tokens_ns + now_ns - checked_ns)
        wait_ns = max(0, cost_ns - tokens_ns)
        tokens_ns += wait_ns - cost_ns
        checked_ns = now_ns + wait_ns
        times.append(checked_ns)
    return times


def _index(netlink: IPRoute) -> int:
    (index,) = netlink.link_lookup(ifname=DEVICE)
    return int(index)
