"""Quantities: what a tool rounds to, and what it says that it measures."""

import pytest

from lab.judging.quantity import Quantity, Row


@pytest.mark.parametrize(
    ("unit", "resolution", "ns"),
    [
        ("ns", "", 1),
        ("us", "", 1000),
        ("ms", "", 10**6),
        ("s", "", 10**9),
        ("s", "10ms", 10**7),
        ("", "", 1),
        ("ms", "1us", 1000),
    ],
)
def test_the_resolution_of_times(unit, resolution, ns):
    """It is the unit, unless the description names another one."""
    assert Quantity("duration", unit=unit, resolution=resolution).resolution_ns == ns


@pytest.mark.parametrize(
    ("unit", "size"), [("", 0), ("B", 0), ("kB", 1000), ("KiB", 1024), ("MB", 10**6), ("MiB", 1 << 20)]
)
def test_the_resolution_of_sizes(unit, size):
    """Single bytes are not rounded."""
    assert Quantity("flows", unit=unit).resolution_bytes == size


@pytest.mark.parametrize(
    ("quantity", "text"),
    [
        (Quantity("duration", "syn_seen", "first_end_seen"), "from syn_seen to first_end_seen"),
        (
            Quantity("duration", "established_entered", "socket_closed"),
            "from established_entered to socket_closed, without the handshake",
        ),
        (Quantity("requests", "connect_returned", "reply_read"), "from connect_returned to reply_read"),
        (Quantity("flows"), "bytes of whole frames"),
        (Quantity("flows", layer="ip"), "bytes of IP packets"),
        (Quantity("rtt", smoothed=True), "smoothed RTTs"),
        (Quantity("rtt"), ""),
    ],
)
def test_the_definition(quantity, text):
    """It is what the tool says, in words."""
    assert quantity.definition == text


def test_a_row():
    """A field that it does not have is None, as an unknown one."""
    row = Row({"laddr": "192.0.2.1", "rport": 80, "value": None}, "a row")
    assert (row.get("value"), row.get("pid"), row.ends) == (None, None, ("192.0.2.1", None, None, 80))
