"""What a Prometheus server reads of segments that were sent again."""

import pytest
from support.exporters import served
from support.made.observed import AGAIN, observed

from lab.packet import ACK, SYN
from lab.probes.retransmits.measure import Counter
from lab.probes.retransmits.metrics import families
from lab.tcp import State


def samples(**fields):
    """Return the samples of two segments of 300 bytes, with other fields of the first one."""
    rows = observed(AGAIN).recording.events["retransmits"]
    rows["state"] = State.ESTABLISHED
    for name, value in fields.items():
        rows[name][0] = value
    return served(families(None), Counter().rows(rows))


def test_segments_and_bytes():
    """What was sent, in which state."""
    found = samples(segments=3)
    data = {"what": "data", "state": "ESTABLISHED"}
    assert [found.total(f"tcp_retransmitted_{what}_total", **data) for what in ("segments", "bytes")] == [4, 600]
    assert found.total("tcp_failed_retransmissions_total") == 0


@pytest.mark.parametrize(("error", "name"), [(113, "EHOSTUNREACH"), (4000, "4000")])
def test_attempts_that_failed(error, name):
    """They sent nothing."""
    found = samples(error=error)
    assert [found.total(f"tcp_retransmitted_{what}_total") for what in ("segments", "bytes")] == [1, 300]
    assert found.total("tcp_failed_retransmissions_total", error=name) == 1


@pytest.mark.parametrize(
    ("state", "what", "shown"),
    [
        (State.NEW_SYN_RECV, "SYN-ACK", "SYN_RECV"),
        (State.SYN_RECV, "SYN-ACK", "SYN_RECV"),
        (State.SYN_SENT, "SYN", "SYN_SENT"),
    ],
)
def test_the_handshake(state, what, shown):
    """A connection request is in the state that its socket will have."""
    found = samples(state=state, flags=SYN | ACK, length=1)
    assert found.total("tcp_retransmitted_segments_total", what=what, state=shown) == 1
    assert found.total("tcp_retransmitted_bytes_total") == 300
