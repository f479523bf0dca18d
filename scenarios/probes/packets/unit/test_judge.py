"""The judge of the probe `packets`: it calls each wrong number wrong, and none of the right ones."""

import pytest
from support.made.observed import TAPS, WIRE, changed, intervals, observed, refused, whatever_is_known, without, wrong
from support.made.timelines import FLOW

from lab.packet import ACK, FIN, RST, SYN

ON_WIRE = "sequence numbers, flags, lengths"
EARLY = "packets that arrive before they leave the wire"
OPENING, ANSWER, LAST_OF_HANDSHAKE, REQUEST, REPLY, FIN_OF_CLIENT, FIN_OF_SERVER = 0, 1, 2, 3, 5, 7, 9


@whatever_is_known
def test_what_is_true(packets, known):
    """A true recording has no wrong number, whatever else is known, also with segments that were sent twice."""
    assert wrong(observed(packets, **known), "packets") == set()


def test_a_refused_connection():
    """It has a SYN and a RST, and no data."""
    assert wrong(refused(), "packets") == set()
    assert wrong(changed(refused(), "packets", 1, flags=ACK), "packets") == {"ends with"}
    assert wrong(changed(refused(), "packets", 1, time_ns=101), "packets") == {"RST arrives at"}


@pytest.mark.parametrize(
    ("number", "fields", "quantities"),
    [
        (OPENING, {"time_ns": 101}, {"SYN arrives at", "SYN to answer"}),
        (OPENING, {"flags": 0}, {"SYN numbers"}),
        (OPENING, {"flags": SYN | ACK}, {"SYN numbers"}),
        (OPENING, {"seq": 998}, {"first data arrives at"}),
        (ANSWER, {"time_ns": 101}, {"SYN-ACK arrives at"}),
        (ANSWER, {"time_ns": 29}, {"SYN to answer"}),
        (ANSWER, {"flags": SYN}, {"SYN-ACK numbers"}),
        (LAST_OF_HANDSHAKE, {"sport": 1}, {"packets of no connection"}),
        (LAST_OF_HANDSHAKE, {"ifindex": 2}, {"packets of no connection"}),
        (LAST_OF_HANDSHAKE, {"protocol": 17}, {"packets of no connection"}),
        (LAST_OF_HANDSHAKE, {"problem": 1}, {"packets of no connection"}),
        (REQUEST, {"payload_length": 299}, {"payload bytes", "last data arrives at"}),
        (REQUEST, {"payload_length": 301}, {"payload bytes"}),
        (REQUEST, {"time_ns": 199}, {"first data arrives at", "last data arrives at"}),
        (REQUEST, {"time_ns": 251}, {"first data arrives at", "last data arrives at"}),
        (REPLY, {"time_ns": 401}, {"first data arrives at", "last data arrives at"}),
        (REPLY, {"seq": 5001}, {"first data arrives at"}),
        (FIN_OF_CLIENT, {"time_ns": 499}, {"FIN arrives at"}),
        (FIN_OF_CLIENT, {"time_ns": 601}, {"FIN arrives at"}),
        (FIN_OF_CLIENT, {"flags": ACK}, {"ends with"}),
        (FIN_OF_CLIENT, {"flags": FIN | RST | ACK}, {"ends with", "resets"}),
        (FIN_OF_SERVER, {"time_ns": 699}, {"FIN arrives at"}),
        (FIN_OF_SERVER, {"flags": RST}, {"ends with", "resets"}),
        (FIN_OF_SERVER, {"payload_length": 1}, {"payload bytes"}),
    ],
)
def test_one_wrong_number(number, fields, quantities):
    """It is outside of what the applications know."""
    assert wrong(changed(observed(), "packets", number, **fields), "packets") == quantities


@pytest.mark.parametrize(
    ("number", "fields", "quantities"),
    [
        (LAST_OF_HANDSHAKE, {"ack": 1}, {ON_WIRE}),
        (LAST_OF_HANDSHAKE, {"flags": ACK | RST}, {ON_WIRE}),
        (LAST_OF_HANDSHAKE, {"time_ns": 83}, {EARLY}),
        (FIN_OF_CLIENT, {"seq": 1301}, {ON_WIRE}),
        (FIN_OF_SERVER, {"payload_length": 1}, {ON_WIRE, "payload bytes"}),
        (LAST_OF_HANDSHAKE, {"protocol": 17}, {"packets", "packets of no connection"}),
    ],
)
def test_one_number_that_is_not_that_of_the_wire(number, fields, quantities):
    """Every segment is as it left the wire, and came later."""
    assert wrong(changed(observed(**WIRE), "packets", number, **fields), "packets") == quantities
    assert wrong(without(observed(**WIRE), "packets", LAST_OF_HANDSHAKE), "packets") == {"packets"}


def test_what_a_tap_adds():
    """A segment reaches XDP between the tap and the answer to it, or the softirq's end."""
    found = intervals(observed(**TAPS), "packets")
    there, back = str(FLOW), str(FLOW.reversed())
    assert {key: found[key] for key in found if key[1].endswith(" at")} == {
        (there, "SYN arrives at"): (27, 43),
        (there, "first data arrives at"): (222, 233),
        (there, "last data arrives at"): (222, 233),
        (there, "FIN arrives at"): (522, 533),
        (back, "SYN-ACK arrives at"): (57, 73),
        (back, "first data arrives at"): (327, 338),
        (back, "last data arrives at"): (327, 338),
        (back, "FIN arrives at"): (722, 733),
    }


def test_a_tap_whose_stamps_are_late():
    """Without an early stamp the tap may have come after XDP: only its latest time counts."""
    seen = observed(**TAPS)
    for rows in seen.taps._by_place.values():  # noqa: SLF001 (the stamps of all taps)
        rows["early"] = 0
    found = intervals(seen, "packets")
    assert found[str(FLOW), "SYN arrives at"] == (0, 29)
    assert found[str(FLOW), "FIN arrives at"] == (500, 524)


def test_segments_that_no_tap_has_seen():
    """The applications alone bound them."""
    seen, known = observed(**TAPS), intervals(observed(), "packets")
    seen.taps._by_place = {  # noqa: SLF001 (what the taps have seen)
        key: rows[(rows["flags"] & (SYN | FIN) == 0) & (rows["payload"] == 0)]
        for key, rows in seen.taps._by_place.items()  # noqa: SLF001 (as above)
    }
    found = intervals(seen, "packets")
    assert {key: found[key] for key in found if key[1].endswith(" at")} == {
        key: known[key] for key in known if key[1].endswith(" at")
    }


def test_native_xdp_is_before_all_taps():
    """Then the taps bound nothing."""
    seen = observed(**TAPS)
    seen.recording.attach_points["packets"] = ["native XDP"]
    assert intervals(seen, "packets")[str(FLOW), "SYN arrives at"] == (0, 100)
