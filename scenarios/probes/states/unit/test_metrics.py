"""What a Prometheus server reads of changes of state."""

import pytest
from support.exporters import served
from support.made.observed import observed

from lab.probes.states.measure import transitions
from lab.probes.states.metrics import families
from lab.tcp import State


def test_changes_and_times():
    """Each change is one, and each known time is in the histogram of the state that was left, up to 1000 s."""
    rows = transitions(observed().recording.events["states"])
    found = served(families(None), rows)
    for row in rows:
        old, new = (State(row[name]).name for name in ("oldstate", "newstate"))
        assert found.total("tcp_state_transitions_total", oldstate=old, newstate=new) == 1
    assert found.total("tcp_state_transitions_total") == len(rows)
    known = rows[rows["duration_ns"] >= 0]
    for state in State:
        mine = known["duration_ns"][known["oldstate"] == state]
        assert found.total("tcp_state_duration_seconds_count", state=state.name) == len(mine)
        assert found.total("tcp_state_duration_seconds_sum", state=state.name) == pytest.approx(mine.sum() / 1e9)
    bounds = sorted(map(float, found.bounds("tcp_state_duration_seconds")))
    assert (bounds[0], bounds[-1]) == (1e-4, 1000)
