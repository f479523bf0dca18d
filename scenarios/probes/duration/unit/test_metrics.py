"""What a Prometheus server reads of connections that ended."""

import pytest
from support.exporters import served
from support.made.observed import observed, refused

from lab.probes.duration.measure import lifetimes
from lab.probes.duration.metrics import families


@pytest.mark.parametrize(("whole", "ended"), [(observed(), "fin"), (refused(), "refused")])
def test_connections(whole, ended):
    """Each row is one, with its times where they are known."""
    rows = lifetimes(whole.recording.events["duration"], whole.end_ns)
    rows["syn_retransmissions"] = 3, 4
    found = served(families(None), rows)
    assert found.total("tcp_connections_ended_total", ended=ended) == found.total("tcp_connections_ended_total") == 2
    assert found.total("tcp_connection_duration_seconds_count", ended=ended) == 2
    sum_s = found.total("tcp_connection_duration_seconds_sum", ended=ended)
    assert sum_s == pytest.approx(rows["duration_ns"].sum() / 1e9)
    answered = rows["synack_ns"] >= 0
    assert found.total("tcp_connection_handshake_seconds_count") == answered.sum()
    sum_s = found.total("tcp_connection_handshake_seconds_sum")
    assert sum_s == pytest.approx(rows["synack_ns"][answered].sum() / 1e9)
    assert found.total("tcp_connection_syn_retransmissions_total") == 7
    for name in ("duration", "handshake"):
        bounds = sorted(map(float, found.bounds(f"tcp_connection_{name}_seconds")))
        assert (bounds[0], bounds[-1]) == (1e-4, 1000)
