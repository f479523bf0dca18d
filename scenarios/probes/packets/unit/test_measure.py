"""Packets by flow, and the segment that brought a byte: from arrays."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.made.observed import AT_CLIENT, AT_SERVER, PACKETS, observed
from support.made.timelines import FLOW

from lab.probes.packets.measure import arrival_of_byte, by_flow, packets_of
from lab.tcp import Flow

EVENTS = observed().recording.events["packets"]


def test_flows():
    """Each interface and flow has its packets, in their order; others are in none."""
    other = EVENTS.copy()
    other["protocol"][0], other["problem"][1] = 17, 1
    flows = by_flow(other)
    assert set(flows) == {(AT_SERVER, FLOW), (AT_CLIENT, FLOW.reversed())}
    for (ifindex, flow), rows in flows.items():
        mine = [packet for packet in PACKETS[2:] if packet.flow == flow and packet.places[1] == ifindex]
        assert rows["time_ns"].tolist() == [packet.came_ns for packet in mine]
    assert by_flow(EVENTS[:0]) == {}


@pytest.mark.parametrize(
    ("ifindex", "flow", "number"),
    [
        (AT_SERVER, FLOW, 6),
        (AT_SERVER, FLOW._replace(lport=1), 0),
        (AT_CLIENT, FLOW, 0),
        (AT_SERVER, FLOW._replace(laddr="0.0.0.0"), 6),  # noqa: S104 (an address that is not known)
        (AT_SERVER, FLOW._replace(laddr="0.0.0.0", lport=0), 6),  # noqa: S104 (as above)
        (AT_SERVER, FLOW._replace(laddr="0.0.0.0", lport=1), 0),  # noqa: S104 (as above)
        (AT_SERVER, FLOW._replace(laddr="0.0.0.0", rport=1), 0),  # noqa: S104 (as above)
        (AT_CLIENT, FLOW._replace(laddr="0.0.0.0"), 0),  # noqa: S104 (as above)
        (AT_CLIENT, Flow("192.0.2.2", 9999, "::", 0), 5),
    ],
)
def test_an_end_that_is_not_known_matches_any(ifindex, flow, number):
    """Other parts must be equal."""
    assert sum(map(len, packets_of(by_flow(EVENTS), ifindex, flow))) == number


@example(2**32 - 1, [(5, 3)], 5, 0)
@example(7, [(5, 3)], 5, 5)
@example(7, [(0, 3)], 0, 0)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=12),
    st.sampled_from([0, 5]),
    st.integers(0, 60),
)
def test_the_first_segment_that_has_a_byte(isn, segments, in_syn, byte):
    """In whatever order they came, also behind the end of the sequence numbers, and with data in the SYN."""
    seq = np.array([isn, *((isn + 1 + start) % 2**32 for start, _ in segments)], np.uint32)
    length = np.array([in_syn, *(size for _, size in segments)], np.uint32)
    has = [byte in range(start, start + size) for start, size in [(0, in_syn), *segments]]
    assert arrival_of_byte(seq, length, byte) == (has.index(True) if True in has else None)
