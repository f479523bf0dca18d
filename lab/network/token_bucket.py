"""A token bucket at the sending host: a delay that arises in the host's qdisc only, and its expected value."""

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
    """Limit a host to bursts of `burst_bytes` and a mean of `rate_bps` (bit/s of Ethernet frames) during the block.

    Up to `limit_bytes` wait in the queue; further frames are dropped. Raises `LabError` if the kernel has no tbf, for a
    rate below 8, a burst smaller than a full frame (a larger frame never leaves the queue), or a limit smaller than the
    burst.
    """
    if rate_bps < 8:
        raise LabError(f"a token bucket of {rate_bps} bit/s lets no frame pass: give a rate of 8 or more")
    if burst_bytes < 1514:
        raise LabError(f"a burst of {burst_bytes} bytes is smaller than a frame: give 1514 or more")
    if limit_bytes < burst_bytes:
        raise LabError(f"a queue of {limit_bytes} bytes is smaller than a burst of {burst_bytes}: give a larger limit")
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
    """Return the earliest departure of each frame (time of queueing, bytes); the bucket is full at `full_at_ns`.

    The arithmetic is that of `tbf_dequeue()`: tokens are nanoseconds of transmission, and a frame leaves when the
    bucket holds its transmission time.
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
