"""One order by kernel time across processors, whatever the ring's order and wherever a drain was stopped."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.in_order import InOrder

pytestmark = pytest.mark.rootless

EVENT = np.dtype([("time_ns", "u8"), ("number", "u4")])


@settings(deadline=None)  # how long it takes is the machine's affair
@given(st.data())
def test_order_is_exact(data):
    """L1: processors reserve, stamp and submit as they like; what comes out is sorted, complete, and never too early.

    The ring hands out records in the order in which they were reserved, and stops at the first that is not submitted.
    """
    records, events, handed = [], [], 0
    order, out = InOrder(), []
    for now, act in enumerate(data.draw(st.lists(st.sampled_from("rrsscccd"), max_size=60)), 1):
        open_records = [record for record in records if record["stage"] in ("reserved", "stamped")]
        if act == "r" and len(open_records) < 3:
            records.append({"stage": "reserved", "time_ns": 0})
        elif act == "s" and (waiting := [r for r in open_records if r["stage"] == "reserved"]):
            data.draw(st.sampled_from(waiting)).update(stage="stamped", time_ns=now)
        elif act == "c" and (waiting := [r for r in open_records if r["stage"] == "stamped"]):
            data.draw(st.sampled_from(waiting)).update(stage="submitted")
        elif act == "d":
            ready = []
            while handed < len(records) and records[handed]["stage"] == "submitted":
                ready.append((records[handed]["time_ns"], handed))
                handed += 1
            events += ready
            final = order.add(np.array(ready, EVENT), now, complete=handed == len(records))
            out += final.tolist()
    rest = order.rest()
    out += [] if rest is None else rest.tolist()
    assert [time_ns for time_ns, _ in out] == sorted(time_ns for time_ns, _ in events)
    assert sorted(out) == sorted(events)
