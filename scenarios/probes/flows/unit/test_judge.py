"""The judge of the probe `flows`: it calls each wrong number wrong, and none of the right ones."""

from dataclasses import replace

import pytest
from support.made.observed import (
    HEADERS,
    TAPS,
    WIRE,
    changed,
    intervals,
    observed,
    refused,
    whatever_is_known,
    without,
    wrong,
)
from support.made.timelines import FLOW

from lab.linux.tcp_counters import Sent

LEFT_CLIENT, CAME_TO_SERVER, LEFT_SERVER, CAME_TO_CLIENT = 0, 1, 2, 3
HOSTS, HEADER_BYTES = "TCP packets sent", "bytes of headers"
NOWHERE = {"FIN", "SYN", "packets", "payload bytes"}


@whatever_is_known
def test_what_is_true(packets, known):
    """A true recording has no wrong number, whatever else is known."""
    assert wrong(observed(packets, **known), "flows") == set()


@pytest.mark.parametrize("number", [LEFT_CLIENT, LEFT_SERVER])
@pytest.mark.parametrize(
    ("fields", "quantities"),
    [
        ({"packets": 1}, {HOSTS, "packets", HEADER_BYTES}),
        ({"packets": 7}, {HOSTS, "packets", HEADER_BYTES}),
        ({"bytes": 500}, {HEADER_BYTES}),
        ({"bytes": 900}, {HEADER_BYTES}),
        ({"payload_bytes": 299}, {"payload bytes"}),
        ({"syns": 0}, {"SYN"}),
        ({"syns": 2}, {"SYN"}),
        ({"fins": 0}, {"FIN"}),
        ({"fins": 2}, {"FIN"}),
        ({"sport": 1}, NOWHERE),
        ({"protocol": 17}, NOWHERE | {HOSTS}),
        ({"version": 0}, NOWHERE | {HOSTS}),
        ({"direction": 7}, NOWHERE | {HOSTS}),
    ],
)
def test_one_wrong_number_where_packets_left(number, fields, quantities):
    """It contradicts the applications or the hosts' counters, and what left is not what arrived or was on the wire."""
    assert wrong(changed(observed(), "flows", number, **fields), "flows") == quantities | {"what arrived"}
    assert wrong(changed(observed(**WIRE), "flows", number, **fields), "flows") == quantities | {"what left"}


@pytest.mark.parametrize("number", [CAME_TO_SERVER, CAME_TO_CLIENT])
@pytest.mark.parametrize("name", ["packets", "bytes", "payload_bytes", "syns", "fins"])
@pytest.mark.parametrize("known", [{}, WIRE])
def test_one_wrong_number_where_packets_arrived(number, name, known):
    """What arrived is what left, or what the wire delivered."""
    assert wrong(changed(observed(**known), "flows", number, **{name: 10_000}), "flows") == {"what arrived"}


def test_one_count_that_was_missed():
    """A direction without a row has no packets."""
    assert wrong(without(observed(), "flows", LEFT_SERVER), "flows") == NOWHERE | {HOSTS, "what arrived"}
    assert wrong(without(observed(), "flows", CAME_TO_CLIENT), "flows") == {"last packet arrived at", "what arrived"}


@pytest.mark.parametrize(
    ("number", "fields", "quantity"),
    [
        (LEFT_CLIENT, {"first_ns": 101}, "first packet left at"),
        (LEFT_CLIENT, {"last_ns": 499}, "last packet left at"),
        (LEFT_SERVER, {"last_ns": 10_001}, "last packet left at"),
        (CAME_TO_SERVER, {"first_ns": 101}, "first packet arrived at"),
        (CAME_TO_CLIENT, {"last_ns": 699}, "last packet arrived at"),
        (CAME_TO_CLIENT, {"last_ns": 10_001}, "last packet arrived at"),
    ],
)
def test_one_wrong_time(number, fields, quantity):
    """The first packet passes inside connect(), the last one not before the last FIN."""
    assert wrong(changed(observed(), "flows", number, **fields), "flows") == {quantity}


def test_what_taps_add():
    """The first and the last packet pass right before, or right after, their tap."""
    found, there, back = intervals(observed(**TAPS), "flows"), str(FLOW), str(FLOW.reversed())
    assert {key: found[key] for key in found if key[1].endswith(" at")} == {
        (there, "first packet left at"): (0, 13),
        (there, "last packet left at"): (722, 733),
        (there, "first packet arrived at"): (27, 43),
        (there, "last packet arrived at"): (742, 800),
        (back, "first packet left at"): (27, 43),
        (back, "last packet left at"): (700, 708),
        (back, "first packet arrived at"): (57, 73),
        (back, "last packet arrived at"): (722, 800),
    }


def test_bounds_of_the_headers():
    """Each packet has all fixed headers, and options at most."""
    found = intervals(observed(), "flows")
    assert found[str(FLOW), HEADER_BYTES] == (6 * HEADERS, 6 * (HEADERS + 40))
    assert found[str(FLOW), "packets"] == (2, 6)


def test_a_host_that_retransmitted():
    """Its counters give how many packets more there can be."""
    again = replace(observed(), sent=(Sent(6, 2), Sent(5)))
    found = intervals(again, "flows")
    assert found["the client's host", HOSTS] == (6, 8)
    assert found[str(FLOW), "packets"] == (2, 8)
    assert found[str(FLOW.reversed()), "packets"] == (2, 5)


@pytest.mark.parametrize("laddr", ["0.0.0.0", "192.0.2.1"])  # noqa: S104 (an address that is not known)
@pytest.mark.parametrize("port", [0, 40000])
def test_a_refused_connection_may_not_know_its_address(laddr, port):
    """Its packets are those to the same server that belong to no other connection."""
    it = refused()
    client = it.connections[0].client
    client.flow = FLOW._replace(laddr=laddr, lport=port if laddr != FLOW.laddr else FLOW.lport)
    assert wrong(it, "flows") == set()
    assert wrong(changed(it, "flows", LEFT_CLIENT, dport=1), "flows") >= {"SYN", "packets"}
