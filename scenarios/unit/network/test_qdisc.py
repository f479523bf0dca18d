"""The bytes of qdisc options: exact, in the kernel's own units."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.network import netem, qdisc
from lab.network.conditions import Conditions
from lab.network.link import Place
from lab.network.token_bucket import departures_ns
from lab.units import MS, SECOND

ALL = 0xFFFFFFFF
LATENCY, JITTER, REORDER, CORRUPT, RATE, RATE64, SEED = 10, 11, 3, 4, 6, 8, 14


def attributes(data):
    """Parse netlink attributes: values by number."""
    found = {}
    while data:
        length, number = struct.unpack_from("=HH", data)
        found[number] = data[4:length]
        data = data[length + -length % 4 :]
    return found


def netem_options(conditions):
    """Return the fixed part and the attributes of netem's options."""
    options = qdisc.netem(conditions)
    return struct.unpack_from("=6I", options), attributes(options[24:])


def test_times_are_nanoseconds():
    """Times are in the 64-bit attributes, exact to the nanosecond. The fields in ticks are 0."""
    fixed, found = netem_options(Conditions(delay_ns=20 * MS + 1, jitter_ns=3))
    assert (fixed[0], fixed[5]) == (0, 0)
    assert struct.unpack("=q", found[LATENCY]) == (20_000_001,)
    assert struct.unpack("=q", found[JITTER]) == (3,)


@pytest.mark.parametrize(("part", "number"), [(0, 0), (1, ALL), (0.5, 0x80000000), (0.01, 42949673)])
def test_fractions_are_parts_of_32_bits(part, number):
    """The fraction 1 is 2**32 - 1, and 0 is 0."""
    conditions = Conditions(delay_ns=1, loss=part, duplicate=part, reorder=part, corrupt=part, limit=7)
    (_, limit, loss, gap, duplicate, _), found = netem_options(conditions)
    assert (limit, loss, duplicate) == (7, number, number)
    assert gap == bool(
        part
    )  # without a gap netem ignores the fraction; with a gap and no fraction it reorders every frame
    assert struct.unpack("=2I", found[REORDER]) == struct.unpack("=2I", found[CORRUPT]) == (number, 0)


@pytest.mark.parametrize(("bps", "low", "whole"), [(0, 0, 0), (8_000, 1000, 1000), (80 * 10**9, ALL, 10**10)])
def test_rates_are_bytes_per_second(bps, low, whole):
    """Rates beyond 32 bits are in the 64-bit attribute."""
    _, found = netem_options(Conditions(rate_bps=bps))
    assert struct.unpack("=IiIi", found[RATE]) == (low, 0, 0, 0)
    assert struct.unpack("=Q", found[RATE64]) == (whole,)


def test_seed():
    """The seed is a 64-bit attribute."""
    assert struct.unpack("=Q", netem_options(Conditions(seed=2**40))[1][SEED]) == (2**40,)


def test_netem_cannot_drop_by_number():
    """A condition that netem lacks is an error."""
    with pytest.raises(LabError, match="netem cannot drop frames by name: use the relay"):
        qdisc.netem(Conditions(drop=(1,)))


def test_tbf():
    """Rate and burst are exact. The link layer is Ethernet, so the kernel needs no rate table."""
    found = attributes(qdisc.tbf(125_000, 1600, 1 << 20))
    assert found.keys() == {1, 4, 6}
    rate, limit, ticks, mtu = found[1][:12], *struct.unpack("=3I", found[1][24:])
    assert struct.unpack("=BBHhHI", rate) == (0, 1, 0, 0, 0, 125_000)
    assert (limit, ticks, mtu) == (1 << 20, 0, 0)
    assert struct.unpack("=I", found[6]) == (1600,)
    assert struct.unpack("=Q", found[4]) == (125_000,)


class WireTruth:
    """Substitute for a netlink socket that records the messages."""

    def __init__(self):
        self.messages = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def nlm_request_batch(self, messages):
        """Record the bytes of each message."""
        for message in messages:
            message.encode()
            self.messages.append(bytes(message.data))


@pytest.fixture
def wire(monkeypatch):
    """Replace every call to the kernel, and return the recorder of messages."""
    wire = WireTruth()
    monkeypatch.setattr(netem, "IPRoute", lambda: wire)
    monkeypatch.setattr(netem, "inside", lambda _, function: function())
    monkeypatch.setattr(netem, "turn_off", lambda _: None)
    monkeypatch.setattr("lab.network.link.inside", lambda _, function: function())
    monkeypatch.setattr("lab.network.link.dropped", lambda _: 0)
    monkeypatch.setattr("lab.network.link._bridge", lambda: {"client": 2, "server": 3})
    return wire


def test_messages(wire):
    """Each direction gets a qdisc on the device where its frames leave the wire; default conditions remove it."""
    link = netem.Netem()
    link.install(Place("wire", ("client", "server")))
    slow = Conditions(delay_ns=MS)
    for conditions in ((slow, Conditions()), (slow, slow), (Conditions(), slow)):
        change = link.apply(*conditions)
        assert change.earliest_ns <= change.latest_ns
    # struct tcmsg follows the netlink header: family, ifindex, handle, parent, info; then TCA_KIND and TCA_OPTIONS.
    new, gone = 36, 37
    where = [
        (*struct.unpack_from("=4xH", message), *struct.unpack_from("=iII", message, 20)) for message in wire.messages
    ]
    set_up = [(new, index, 0x10000, 0xFFFFFFFF) for index in (3, 3, 2)]
    assert where == [*set_up, (gone, 3, 0, 0xFFFFFFFF), (new, 2, 0x10000, 0xFFFFFFFF)]
    message = wire.messages[0]
    assert struct.unpack_from("=6xH", message)[0] == 0x1 | 0x4 | 0x100 | 0x400  # REQUEST, ACK, REPLACE, CREATE
    found = attributes(message[36:])
    assert found[1] == b"netem\0"
    assert found[2] == qdisc.netem(slow)


def test_a_bucket_passes_a_burst_then_its_rate():
    """1000 bytes at 1 Mbit/s take 8 ms, and the first 1600 bytes leave at once."""
    at_once = [(0, 1000)] * 3
    assert departures_ns(at_once, 1_000_000, 1600) == [0, 3_200_000, 11_200_000]


def test_a_bucket_holds_one_burst():
    """After any idle time a bucket holds at most one burst."""
    later = [(0, 1600), (10 * SECOND, 1600), (10 * SECOND, 1000)]
    assert departures_ns(later, 1_000_000, 1600) == [0, 10 * SECOND, 10 * SECOND + 8 * MS]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(60, 1514)), max_size=20), st.integers(8, 10**10))
def test_departures_respect_the_bucket(gaps, rate):
    """Departures are in order, after queueing, and in any interval within burst and rate."""
    at, frames = 0, []
    for gap, length in gaps:
        at += gap
        frames.append((at, length))
    times = departures_ns(frames, rate, 1514)
    assert times == sorted(times)
    assert all(time >= queued for time, (queued, _) in zip(times, frames, strict=True))
    for first in range(len(times)):
        for last in range(first, len(times)):
            carried_ns = sum(length * SECOND // (rate // 8) for _, length in frames[first : last + 1])
            assert carried_ns <= times[last] - times[first] + 1514 * SECOND // (rate // 8)
