"""Faults of the relay are always reported, and the relay leaves nothing behind and uses no CPU while idle."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from support.datagrams import ends, log_of
from support.processes import HUNG_S, NOTHING, belongings, end, left_of, started

from lab.errors import LabError
from lab.linux.ethtool import set_offloads
from lab.linux.netns import inside
from lab.network.conditions import Conditions
from lab.network.frame_log import DROPPED_BETWEEN, Fate
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.units import MS

TAGGED = bytes.fromhex("02000000005e0200000000c188a800648100000a0800") + bytes(64)

UNREAD, REFUSED = "frames that the kernel dropped before the relay could read them", "frames that a device did not take"

UNDER_WAY = """
import signal, sys, time
from lab.network.topology import topology
from lab.network.relay import Relay

signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
with topology(Relay()) as net:
    print("under way", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def net():
    """Two hosts and a relay between them."""
    with topology(Relay()) as net:
        yield net


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["ctrl-c", "term", "kill"])
def test_nothing_is_left(number):
    """The relay ends with the lab process, however it ends. The next instance removes what a killed one left behind."""
    with started(sys.executable, "-c", UNDER_WAY, ready="under way") as process:
        held = belongings(process.pid)
        assert len(held["processes"]) == 2
        if number == signal.SIGKILL:
            os.kill(process.pid, number)
            process.wait()
            held = {**NOTHING, "processes": held["processes"]}
        else:
            end(process, number)
    assert left_of(held) == NOTHING


def test_a_relay_with_nothing_to_do_does_not_run(net):
    """The relay uses no CPU time while no frame waits (schedstat)."""
    net.conditions(Conditions(delay_ns=MS), Conditions(delay_ns=MS))
    with ends(net) as pair:
        pair.ping()
    log_of(net, 2)
    run = Path(f"/proc/{net.link.pid}/schedstat")
    asleep = Path(f"/proc/{net.link.pid}/stat")
    while asleep.read_text(encoding="utf-8").split()[2] != "S":
        time.sleep(0.001)
    before = run.read_text(encoding="utf-8")
    time.sleep(0.3)
    assert run.read_text(encoding="utf-8") == before


def test_vlan_tags_pass(net):
    """A frame with two VLAN tags leaves unchanged, although the kernel removes the outer tag on receipt."""
    sender = inside(net.client.name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    receiver = inside(net.server.name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    with sender, receiver:
        for end_of_wire in (sender, receiver):
            end_of_wire.bind(("eth0", 3))
        receiver.settimeout(HUNG_S)
        receiver.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA
        sender.send(TAGGED)
        data, ((_, _, aux),), _, _ = receiver.recvmsg(2000, 256)
    frames = log_of(net, 1).frames
    assert bytes(frames["head"][0][: len(TAGGED)]) == TAGGED
    assert frames["length"][0] == len(TAGGED)
    assert data == TAGGED[:12] + TAGGED[16:]
    assert aux[16:20] == bytes.fromhex("6400a888")  # the outer tag as the kernel passes it: TCI and type


def test_address_resolution_is_never_lost(net):
    """ARP passes a wire that loses everything else."""
    request = bytes.fromhex("ffffffffffff0200000000c1080600010800060400010200000000c1c0000201")
    net.conditions(Conditions(loss=1), Conditions())
    sender = inside(net.client.name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    with sender, ends(net) as pair:
        sender.bind(("eth0", 0))
        sender.send(request.ljust(60, b"\0"))
        pair.send(1)
        frames = log_of(net, 2).frames
    assert {int(frame["length"]): Fate(frame["fate"]) for frame in frames} == {60: Fate.FORWARDED, 106: Fate.LOST}


def test_what_the_kernel_drops_is_counted(net):
    """A stopped relay loses frames when its buffer is full. Log, queue and faults add up to all frames."""
    sent = 250_000
    with ends(net) as pair:
        os.kill(net.link.pid, signal.SIGSTOP)
        pair.send(sent)
        os.kill(net.link.pid, signal.SIGCONT)
        deadline, accounted, waiting = time.monotonic() + HUNG_S, 0, 1
        while (accounted < sent or waiting) and time.monotonic() < deadline:  # the last frames may still wait
            log = net.link.log(lossy=True)
            waiting = log.waiting
            accounted = len(log.frames) + waiting + log.faults.get(UNREAD, 0)
    assert (accounted, waiting) == (sent, 0)
    refused = int((log.frames["fate"] == Fate.REFUSED).sum())
    assert log.faults.get(REFUSED, 0) == refused
    # If the receiver is slower than the relay, the kernel drops frames or refuses them.
    assert {UNREAD} <= log.faults.keys() <= {UNREAD, REFUSED, DROPPED_BETWEEN}
    with pytest.raises(LabError, match="frames that the kernel dropped"):
        net.link.log()


def test_a_full_log_is_an_error():
    """The relay forwards the frames that find no room in the log, and raises, also if an earlier log was complete."""

    def overflow(link):
        with topology(link) as net, ends(net) as pair:
            for _ in range(3):
                pair.ping()
            assert len(log_of(net, 6).frames) == 6  # complete so far
            for _ in range(2):
                pair.ping()

    link = Relay(log_frames=7)
    with pytest.raises(LabError, match="3 frames for which the log had no room"):
        overflow(link)
    assert len(link.log(lossy=True).frames) == 7


def test_a_device_that_goes_away(net):
    """The log keeps the frames before the device was removed."""

    def take_away():
        with IPRoute() as wire:
            wire.link("del", index=wire.link_lookup(ifname="server")[0])

    with ends(net) as pair:
        pair.ping()
        inside(net.wire, take_away)
        pair.client.send(b"lost")
        with pytest.raises(LabError, match=r"1 times that a device went away"):
            log_of(net, 3)
        log = net.link.log(lossy=True)
        assert len(log.frames) >= 2
        assert "frames that a device did not take" in log.faults


def test_a_relay_that_dies(net):
    """Each later call raises an error."""
    os.kill(net.link.pid, signal.SIGKILL)
    with pytest.raises(LabError, match="the wire's relay has ended with status -9"):
        net.conditions(Conditions(), Conditions())
    with pytest.raises(LabError, match="this wire has been removed"):
        net.conditions(Conditions(), Conditions())


def test_a_relay_that_dies_without_a_later_call():
    """Removing the network raises an error."""

    def lose(link):
        with topology(link):
            os.kill(link.pid, signal.SIGKILL)

    with pytest.raises(LabError, match="the wire's relay has ended with status -9"):
        lose(Relay())


def test_offloads_that_were_turned_on_again(net):
    """A frame without a checksum is a fault."""
    inside(net.client.name, lambda: set_offloads("eth0", "tx", on=True))
    with ends(net) as pair:
        pair.client.send(b"x" * 100)
        deadline = time.monotonic() + HUNG_S
        while not net.link.log(lossy=True).faults:
            assert time.monotonic() < deadline
        with pytest.raises(LabError, match="1 frames without a checksum"):
            net.link.log()
        # The fault is raised once only.
        assert net.link.log().faults == {"frames without a checksum, from a host with offloads": 1}
