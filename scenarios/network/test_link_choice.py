"""Whichever link a kernel gets, delays are true; and a delay at the sender is in the sender's queue and nowhere else."""

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


def test_what_is_chosen():
    """The best that the doctor finds here; a bridge when nothing is wanted, the relay when a log is."""
    (choice,) = (it for it in capabilities.choices(capabilities.examine()) if it.observation == "link condition")
    assert wire().name == choice.chosen
    assert isinstance(wire(conditions=False), Bridge)
    assert isinstance(wire(log=True), Relay)


@pytest.mark.parametrize("version", [4, 6])
def test_any_link_delays(version):
    """Here the relay, elsewhere netem: no datagram is seen before its delay is over."""
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
def test_what_the_kernel_does_not_carry_is_told(wanted):
    """A frame that is longer than the wire's device takes is dropped where it enters, and told once: nobody judges without it."""

    def shorten():
        with IPRoute() as netlink:
            netlink.link("set", index=netlink.link_lookup(ifname="client")[0], mtu=1000)

    with topology(wire(**wanted)) as net, ends(net) as pair:
        inside(net.wire, shorten)
        pair.send(3, size=1200)
        with pytest.raises(FramesDropped, match="3 of them"):
            net.link.log()
        pair.ping()
        net.link.log()


def test_a_token_bucket_delays_at_the_sender():
    """Frames reach the wire no sooner than the bucket lets them, and the wire itself does not delay them."""
    with topology(Relay()) as net, ends(net) as pair:
        with token_bucket(net.client, rate_bps=RATE_BPS, burst_bytes=BURST):
            full_ns, sent = time.monotonic_ns(), []
            for _ in range(5):
                sent.append((time.monotonic_ns(), 1042))
                pair.send(1, size=1000)
            frames = log_of(net, 5).going(Direction.TO_SERVER)
        assert set(frames["length"]) == {1042}
        # The kernel multiplies and shifts where the prediction divides: a nanosecond for each frame.
        earliest = np.array(departures_ns(sent, RATE_BPS, BURST, full_ns)) - np.arange(1, 6)
        assert np.all(frames["arrived_high_ns"] >= earliest)
        assert frames["arrived_high_ns"][-1] - full_ns >= (5 * 1042 - BURST) * 8_000
        assert np.all(frames["due_ns"] == frames["arrived_high_ns"])
        assert np.all(hold_ns(frames)[0] >= 0)

        # With the bucket gone, a frame waits for nobody: its queue is the default one again.
        pair.send(1, size=1000)
        assert len(log_of(net, 6).going(Direction.TO_SERVER)) == 6


@pytest.mark.parametrize(
    ("bucket", "sentence"),
    [
        ({"rate_bps": 0}, "a token bucket of 0 bit/s lets nothing pass"),
        ({"rate_bps": 10**6, "burst_bytes": 1500}, "holds no whole frame: give 1514 or more"),
        ({"rate_bps": 10**6, "limit_bytes": 100}, "give a larger limit"),
    ],
)
def test_impossible_buckets(bucket, sentence):
    """Refused before anything is built."""
    with pytest.raises(LabError, match=sentence), token_bucket(None, **bucket):
        pytest.fail("there is no such bucket")
