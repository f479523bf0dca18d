"""F6: copies of multicast and broadcast datagrams that a host sends itself never were on the interface."""

import pytest
from support.multicast import GROUPS, member, send_to_all
from support.mutants import totals_of

from lab.probes.flows.measure import Direction
from lab.recording.recorder import record

SIZES = (0, 30, 1200, 5000)  # the last is sent in fragments, and its copy is whole


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_looped_copies(net, group):
    """F6: each datagram counts once, at egress, although the host also receives it itself."""
    with member(net.client, group) as sock, record("flows", devices=net.devices) as recorder:
        send_to_all(sock, group, SIZES)
        net.quiesce()
    totals = recorder.recording.totals["flows"]
    assert set(totals["ethertype"]) <= {0x0800, 0x86DD}
    sent = totals_of(totals, net.client, Direction.EGRESS)
    assert len(totals_of(totals, net.client, Direction.INGRESS)) == 0
    assert sent[sent["dport"] == 5353]["packets"].sum() == len(SIZES)
