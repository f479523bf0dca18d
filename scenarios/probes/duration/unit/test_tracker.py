"""The table of connections under way says what all segments together say, whatever batches they come in, and has a bound."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.made.duration import SEGMENT, exchange, segment, segments, told, traffic

from lab.probes.duration.measure import lifetimes
from lab.probes.duration.tracker import LINGER_NS, Tracker
from lab.tcp import SYN_TIMEOUT_NS, Ended, Flow
from lab.units import MS, SECOND

NOTHING = np.zeros(0, SEGMENT)


def fed(table, *batches):
    """Feed batches of `(now_ns, segments)`; returns all rows, as lists of names of how they ended."""
    taken = [table.take(batch, now_ns) for now_ns, batch in batches]
    return [[Ended(row["ended"]).name for row in rows] if rows is not None else [] for rows in taken]


@settings(deadline=None, derandomize=True, max_examples=200, phases=set(Phase) - {Phase.explain})
@given(traffic(), st.data())
def test_batches_do_not_matter(traffic, data):
    """Cut anywhere, each batch in any order and some segments a batch late: the same rows, each once."""
    events = segments(*traffic.events)
    table, rows, late = Tracker(), [], NOTHING
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=8)))
    for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        batch = np.concatenate([late, events[start:end]])
        now_ns = int(events["time_ns"][end - 1]) if end else 0
        batch = batch[data.draw(st.permutations(range(len(batch))))] if len(batch) < 20 else batch[::-1]
        kept_back = data.draw(st.integers(0, len(batch))) if end < len(events) else 0
        # What is late by one batch was stamped since the look before.
        old = batch["time_ns"] <= (events["time_ns"][start - 1] if start else 0)
        held = ~old & (np.arange(len(batch)) < kept_back)
        late = batch[held]
        rows.append(table.take(batch[~held], now_ns))
    end_ns = int(events["time_ns"][-1]) + 1 if len(events) else 1
    rows += [table.take(late, end_ns), *table.finish(end_ns)]
    found = np.concatenate([part for part in rows if part is not None] or [lifetimes(NOTHING, 0)])
    assert told(found) == traffic.truth


def test_what_waits_is_not_forgotten():
    """A segment waits for the next look; at the end nothing waits."""
    table = Tracker()
    assert fed(table, (1 * MS, segments(*exchange("cS sSA cF sF")))) == [[]]
    assert fed(table, (2 * MS, NOTHING)) == [["FIN"]]
    table = Tracker()
    fed(table, (5, segments(*exchange("cS sSA cF sF"))))
    ended, still_open = table.finish(1 * MS)
    assert (len(ended), len(still_open)) == (1, 0)


def test_timeout_is_reported_once_and_leaves_the_table():
    """D2: no answer for so long after the last SYN: reported then, not earlier, and gone."""
    table = Tracker(syn_timeout_ns=2 * SECOND)
    syns = segments(segment(10, "S"), segment(SECOND, "S"))
    last_ns = SECOND
    looks = [
        (SECOND, syns),
        (SECOND + 1, NOTHING),
        (last_ns + 2 * SECOND, NOTHING),
        (last_ns + 2 * SECOND + 1, NOTHING),
    ]
    assert fed(table, *looks) == [[], [], [], ["TIMEOUT"]]
    assert len(table) == 0
    assert fed(table, (10 * SECOND, NOTHING)) == [[]]


@pytest.mark.parametrize("story", ["cS sSA cF sF", "cS sRA0", "cS sSA cRA", "cRA"])
def test_what_has_ended_leaves_the_table(story):
    """D2: after TIME_WAIT's time the table is empty, and a FIN sent again until then is no new connection."""
    table = Tracker()
    assert len(fed(table, (MS, segments(*exchange(story))), (2 * MS, NOTHING))[1]) == 1
    assert len(table) == 1
    again = segments(*exchange("sF cF", start_ns=3 * MS))
    assert fed(table, (4 * MS, again), (5 * MS, NOTHING)) == [[], []]
    assert fed(table, (MS + LINGER_NS, NOTHING)) == [[]]
    assert len(table) == 0


def test_strays_do_not_stay():
    """A RST that belongs to nothing takes no room."""
    table = Tracker()
    fed(table, (MS, segments(*exchange("cR sR"))), (2 * MS, NOTHING))
    assert len(table) == 0


def test_retransmissions_take_no_room():
    """Ten thousand times the same SYN is one segment and a count."""
    table = Tracker()
    for number in range(100):
        fed(table, (number * MS, segments(*(segment(number * MS + step, "S") for step in range(100)))))
    fed(table, (SECOND, NOTHING))
    assert len(table._kept) <= 4  # noqa: SLF001 (its size is the point)
    _, (still_open,) = table.finish(2 * SECOND)
    assert still_open["syn_retransmissions"] == 9_999


def test_silent_for_ever():
    """An established connection that never ends stays, as long as there is room."""
    table = Tracker()
    fed(table, (MS, segments(*exchange("cS sSA"))), (2 * MS, NOTHING), (10**6 * SECOND, NOTHING))
    assert len(table) == 1
    end = segments(*exchange("cF sF", start_ns=2 * 10**6 * SECOND))
    assert fed(table, (2 * 10**6 * SECOND + MS, end), (3 * 10**6 * SECOND, NOTHING)) == [[], ["FIN"]]


def flood(count, start_ns, kinds="cS"):
    """Return one story on each of many flows."""
    flow = Flow("192.0.2.1", 1, "192.0.2.2", 80)
    rows = np.tile(segments(*exchange(kinds, flow=flow)), count)
    number = np.repeat(np.arange(count), len(kinds.split()))
    rows["time_ns"] = start_ns + np.arange(len(rows))
    client = rows["dport"] == 80
    for name, mask in (("sport", client), ("dport", ~client)):
        rows[name][mask] = number[mask] % 60_000
    for name, mask in (("saddr", client), ("daddr", ~client)):
        rows[name][mask, 13] = number[mask] // 60_000
    return rows


def test_a_flood_of_syns_is_bounded():
    """D2, L2: more attempts than there is room for: the oldest are forgotten, counted, and the table stays as large as it is."""
    table = Tracker(most=1000)
    for number in range(20):
        fed(table, (number * SECOND, flood(5000, number * SECOND - 10_000)))
    fed(table, (SYN_TIMEOUT_NS // 2, NOTHING))
    assert len(table) <= 1000
    assert table.forgotten >= 5000 - 1000


def test_what_has_ended_makes_room_first():
    """Connections that are open are kept when forgetting ended ones is enough; nothing is counted as forgotten then."""
    table = Tracker(most=1000)
    fed(table, (MS, flood(500, 10, "cS sSA")))
    ended = 0
    for number in range(1, 10):
        rows = table.take(flood(60_000, 0, "cS sSA cF sF")[2400 * number : 2400 * (number + 1)], (number + 1) * MS)
        ended += 0 if rows is None else len(rows)
    _, still_open = table.finish(SECOND)
    assert ended == 9 * 600
    assert len(still_open) == 500
    assert table.forgotten == 0


def test_a_large_table_is_quick():
    """With 100,000 open connections, a look at ten others takes milliseconds: what nothing happens to is left alone."""
    table = Tracker()
    fed(table, (MS, flood(99_000, 10, "cS sSA")), (2 * MS, NOTHING))
    assert len(table) == 99_000
    before = table._kept["number"].copy()  # noqa: SLF001 (how much of it is looked at is the point)
    few = flood(10, 3 * MS, "cS sSA cF sF")
    fed(table, (4 * MS, few), (5 * MS, NOTHING))
    assert (before != table._kept["number"][: len(before)]).sum() < 1000  # noqa: SLF001 (as above)
