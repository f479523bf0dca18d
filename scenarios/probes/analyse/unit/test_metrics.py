"""What a Prometheus server reads of the steps of a conversation made by hand."""

import pytest
from support.exporters import served
from support.made.observed import changed, observed

from lab.probes.analyse.measure import Kind, joined, points
from lab.probes.analyse.metrics import families

HAS_SENT = 13
"""Number of the step at which the client's send() returns, 8 ns after its entry."""


def samples(whole):
    return served(families(None), joined(whole.recording.events["analyse"]))


def test_times_to_established():
    """One for each end: from connect() at the client, the kernel's own sample at the server. Calls are counted apart."""
    found = samples(observed())
    assert [found.total("tcp_connect_seconds_count", role=role) for role in ("client", "service")] == [1, 1]
    assert found.total("tcp_connect_seconds_sum", role="client") == pytest.approx(62e-9)
    assert found.total("tcp_connect_seconds_sum", role="service") == pytest.approx(1e-6)
    assert found.total("tcp_connect_seconds_count") == 2


@pytest.mark.parametrize(("result", "error"), [(300, ""), (-11, "EAGAIN"), (-4000, "4000")])
def test_calls(result, error):
    """Each return of a call, and each work of TCP for one, has its time, its function and its error."""
    found, without = samples(changed(observed(), "analyse", HAS_SENT, result=result)), samples(observed())
    assert found.total("tcp_call_seconds_count") == without.total("tcp_call_seconds_count") > 9
    failed = found.total("tcp_call_seconds_count", error=error, func=points()[0])
    assert failed == (1 if error else without.total("tcp_call_seconds_count"))
    assert not error or found.total("tcp_call_seconds_sum", error=error) == pytest.approx(8e-9)


def test_steps():
    """Each row is one."""
    rows, found = observed().recording.events["analyse"], samples(observed())
    for kind in Kind:
        assert found.total("tcp_steps_total", step=kind.name.lower()) == (rows["kind"] == kind).sum()
