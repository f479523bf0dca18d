"""Every kind of link applies its delays exactly, and a token bucket delays frames at the sender only."""

import time

import numpy as np
import pytest
from pyroute2 import IPRoute
from support.datagrams import ends, log_of

from lab.doctor import capabilities
from lab.errors import FramesDropped, LabError
from lab.linux.netns import inside
from lab.network.conditions import Conditions
from lab.network.frame_log import Direction, hold_ns
from lab.network.link import Bridge
from lab.network.link_choice import wire
from lab.network.relay import Relay
from lab.network.token_bucket import departures_ns, token_bucket
from lab.network.topology import topology
from lab.units import MS

BURST = 1600
RATE_BPS = 1_000_000


def test_choice():
    """Conditions get the link that doctor chooses, a perfect wire gets a bridge, and a log gets the relay."""
    (choice,) = (it for it in capabilities.choices(capabilities.examine()) if it.observation == "link condition")
    assert wire().name == choice.chosen
    assert isinstance(wire(conditions=False), Bridge)
    assert isinstance(wire(log=True), Relay)


@pytest.mark.parametrize("version", [4, 6])
def test_any_link_delays(version):
    """No datagram arrives before its delay has passed, with netem or the relay."""
    there, back = Conditions(delay_ns=20 * MS), Conditions(delay_ns=10 * MS)
    with topology(wire()) as net, ends(net, version) as pair:
        change = net.conditions(there, back)
        assert change.earliest_ns <= change.latest_ns <= time.monotonic_ns()
        ping = pair.ping()
        assert ping.seen_ns - ping.sent_ns >= there.delay_ns
        assert ping.back_ns - ping.seen_ns >= back.delay_ns
        net.conditions(Conditions(), Conditions())
        pair.ping()


@pytest.mark.parametrize("wanted", [{"conditions": False}, {}, {"log": True}], ids=["nothing", "conditions", "a log"])
def test_drops_of_the_kernel_are_reported(wanted):
    """Frames longer than the MTU of the wire's device are dropped. log() raises for them once."""

    def shorten():
        with IPRoute() as netlink:
            netlink.link("set", index=netlink.link_lookup(ifname="client")[0], mtu=1000)

    with topology(wire(**wanted)) as net, ends(net) as pair:
        inside(net.wire, shorten)
        pair.send(3, size=1200)
        with pytest.raises(FramesDropped, match="dropped 3 frames"):
            net.link.log()
        pair.ping()
        net.link.log()


def test_a_token_bucket_delays_at_the_sender():
    """Frames reach the wire no earlier than the bucket allows, and the wire itself does not delay them."""
    with topology(Relay()) as net, ends(net) as pair:
        with token_bucket(net.client, rate_bps=RATE_BPS, burst_bytes=BURST):
            full_ns, sent = time.monotonic_ns(), []
            for _ in range(5):
                sent.append((time.monotonic_ns(), 1042))
                pair.send(1, size=1000)
            frames = log_of(net, 5).going(Direction.TO_SERVER)
        assert set(frames["length"]) == {1042}
        # The kernel multiplies and shifts where the prediction divides: up to a nanosecond less for each frame.
        earliest = np.array(departures_ns(sent, RATE_BPS, BURST, full_ns)) - np.arange(1, 6)
        assert np.all(frames["arrived_high_ns"] >= earliest)
        assert frames["arrived_high_ns"][-1] - full_ns >= (5 * 1042 - BURST) * 8_000
        assert np.all(frames["due_ns"] == frames["arrived_high_ns"])
        assert np.all(hold_ns(frames)[0] >= 0)

        # After the block the default qdisc is back, and a frame is not delayed.
        pair.send(1, size=1000)
        assert len(log_of(net, 6).going(Direction.TO_SERVER)) == 6


@pytest.mark.parametrize(
    ("bucket", "sentence"),
    [
        ({"rate_bps": 0}, "a token bucket of 0 bit/s lets no frame pass"),
        ({"rate_bps": 10**6, "burst_bytes": 1500}, "is smaller than a frame: give 1514 or more"),
        ({"rate_bps": 10**6, "limit_bytes": 100}, "give a larger limit"),
    ],
)
def test_impossible_buckets(bucket, sentence):
    """An impossible bucket is refused before the kernel is called."""
    with pytest.raises(LabError, match=sentence), token_bucket(None, **bucket):
        pytest.fail("there is no such bucket")
