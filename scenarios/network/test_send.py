"""Sending prepared frames: order, timestamps and gaps, and one error for each kind of refused frame."""

import time

import numpy as np
import pytest
from pyroute2 import IPRoute
from support.packet_taps import received_by

from lab.errors import LabError
from lab.linux.netns import inside
from lab.traffic.crafted.frames import datagrams
from lab.traffic.crafted.send import Sender, send
from lab.units import MS

FLOWS = 10_000


def test_ten_thousand_flows(net):
    """Frames of 10,000 flows arrive once each, in order, and the timestamps of successive frames do not overlap."""
    frames = list(datagrams(range(FLOWS), size=18))
    assert len({frame[26:38] for frame in frames}) == FLOWS
    with received_by(net.server) as arrived:
        sent = send(net.client.name, frames)
        net.quiesce()
    assert arrived == sent.frames == frames
    assert (sent.before_ns <= sent.after_ns).all()
    assert (sent.after_ns[:-1] <= sent.before_ns[1:]).all()


def test_gaps(net):
    """No frame leaves before its due time. Due times count from the start, so a late frame does not delay the next."""
    gaps_ns = np.array([0, 5, 0, 1, 20, 3]) * MS
    started_ns = time.monotonic_ns()
    sent = send(net.client.name, datagrams(range(6)), gap_ns=gaps_ns)
    assert (sent.before_ns >= started_ns + np.cumsum(gaps_ns)).all()
    with pytest.raises(ValueError, match="one gap for each frame"):
        send(net.client.name, datagrams(range(6)), gap_ns=gaps_ns[1:])


def test_refused_frames(net):
    """Each has its error: no such interface, no Ethernet header, beyond the MTU, interface down, interface removed."""
    (frame,) = datagrams([1])

    def change(how, **what):
        with IPRoute() as netlink:
            netlink.link(how, index=net.client.ifindex, **what)

    with pytest.raises(LabError, match=r"cannot send from `eth7` in the network namespace `.*` \(No such device\)"):
        Sender(net.client.name, "eth7")
    with Sender(net.client.name) as sender:
        for wrong, sentence in (
            (frame[:10], "10 bytes is shorter than an Ethernet header"),
            (bytes(2000), "larger MTU"),
        ):
            with pytest.raises(LabError, match=sentence):
                sender.send(wrong)
        inside(net.client.name, lambda: change("set", state="down"))
        with pytest.raises(LabError, match="`eth0` is down: set it up"):
            sender.send(frame)
        inside(net.client.name, lambda: change("del"))
        with pytest.raises(LabError, match="`eth0` has gone"):
            sender.send(frame)
