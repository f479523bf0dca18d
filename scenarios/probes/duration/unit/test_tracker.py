"""The table of open connections: batches give the same rows as all segments at once, and its size is bounded."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.made.duration import SEGMENT, exchange, segment, segments, told, traffic

from lab.probes.duration.measure import lifetimes
from lab.probes.duration.tracker import LINGER_NS, Tracker
from lab.tcp import SYN_TIMEOUT_NS, Ended, Flow, Side
from lab.units import MS, SECOND

NOTHING = np.zeros(0, SEGMENT)


def fed(table, *batches):
    """Feed batches of `(now_ns, segments)`; return for each batch how its connections ended."""
    taken = [table.take(batch, now_ns) for now_ns, batch in batches]
    return [[Ended(row["ended"]).name for row in rows] if rows is not None else [] for rows in taken]


@settings(deadline=None, derandomize=True, max_examples=200, phases=set(Phase) - {Phase.explain})
@given(traffic(), st.data())
def test_batches_do_not_matter(traffic, data):
    """With any cuts, any order in a batch, and segments one batch late, each row is correct and reported once."""
    events = segments(*traffic.events)
    table, rows, late = Tracker(), [], NOTHING
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=8)))
    for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        batch = np.concatenate([late, events[start:end]])
        now_ns = int(events["time_ns"][end - 1]) if end else 0
        batch = batch[data.draw(st.permutations(range(len(batch))))] if len(batch) < 20 else batch[::-1]
        kept_back = data.draw(st.integers(0, len(batch))) if end < len(events) else 0
        # A segment that is one batch late has a time stamp after the previous batch.
        old = batch["time_ns"] <= (events["time_ns"][start - 1] if start else 0)
        held = ~old & (np.arange(len(batch)) < kept_back)
        late = batch[held]
        rows.append(table.take(batch[~held], now_ns))
    end_ns = int(events["time_ns"][-1]) + 1 if len(events) else 1
    rows += [table.take(late, end_ns), *table.finish(end_ns)]
    found = np.concatenate([part for part in rows if part is not None] or [lifetimes(NOTHING, 0)])
    assert told(found) == traffic.truth


def test_segments_are_processed_one_batch_later():
    """A segment is processed with the next batch, or at the end."""
    table = Tracker()
    assert fed(table, (1 * MS, segments(*exchange("cS sSA cF sF")))) == [[]]
    assert fed(table, (2 * MS, NOTHING)) == [["FIN"]]
    table = Tracker()
    fed(table, (5, segments(*exchange("cS sSA cF sF"))))
    ended, still_open = table.finish(1 * MS)
    assert (len(ended), len(still_open)) == (1, 0)


def test_timeout_is_reported_once_and_leaves_the_table():
    """D2: a timeout is reported when its time has passed since the last SYN, not earlier; then it leaves the table."""
    table = Tracker(syn_timeout_ns=2 * SECOND)
    syns = segments(segment(10, "S"), segment(SECOND, "S"))
    last_ns = SECOND
    batches = [
        (SECOND, syns),
        (SECOND + 1, NOTHING),
        (last_ns + 2 * SECOND, NOTHING),
        (last_ns + 2 * SECOND + 1, NOTHING),
    ]
    assert fed(table, *batches) == [[], [], [], ["TIMEOUT"]]
    assert len(table) == 0
    assert fed(table, (10 * SECOND, NOTHING)) == [[]]


def test_one_direction_that_is_open_for_longer_than_the_timeout():
    """D6: without the SYN-ACK it looks like a timeout; its end is reported all the same, and it leaves the table."""
    table = Tracker(syn_timeout_ns=2 * SECOND)
    assert fed(table, (MS, segments(segment(10, "S", seq=1000))), (3 * SECOND, NOTHING)) == [[], ["TIMEOUT"]]
    assert fed(table, (4 * SECOND, NOTHING), (5 * SECOND, NOTHING)) == [[], []]
    end = segments(segment(5 * SECOND + 10, "F", seq=1008, ack=5001))
    table.take(end, 6 * SECOND)
    (row,) = table.take(NOTHING, 7 * SECOND)
    assert (Ended(row["ended"]), Side(row["only_from"]), row["duration_ns"]) == (Ended.FIN, Side.CLIENT, 5 * SECOND)
    assert fed(table, (8 * SECOND, end), (9 * SECOND + LINGER_NS, NOTHING)) == [[], []]
    assert len(table) == 0


@pytest.mark.parametrize("words", ["cS sSA cF sF", "cS sRA0", "cS sSA cRA", "cRA"])
def test_ended_connections_leave_the_table(words):
    """D2: an ended connection stays for the length of TIME_WAIT, so that a retransmitted FIN is no new connection."""
    table = Tracker()
    assert len(fed(table, (MS, segments(*exchange(words))), (2 * MS, NOTHING))[1]) == 1
    assert len(table) == 1
    again = segments(*exchange("sF cF", start_ns=3 * MS))
    assert fed(table, (4 * MS, again), (5 * MS, NOTHING)) == [[], []]
    assert fed(table, (MS + LINGER_NS, NOTHING)) == [[]]
    assert len(table) == 0


def test_strays_do_not_stay():
    """A RST without a connection is not kept."""
    table = Tracker()
    fed(table, (MS, segments(*exchange("cR sR"))), (2 * MS, NOTHING))
    assert len(table) == 0


def test_retransmissions_take_no_room():
    """The same SYN ten thousand times is kept as one segment with a count."""
    table = Tracker()
    for number in range(100):
        fed(table, (number * MS, segments(*(segment(number * MS + step, "S") for step in range(100)))))
    fed(table, (SECOND, NOTHING))
    assert len(table._kept) <= 4  # noqa: SLF001 (the test is about its size)
    _, (still_open,) = table.finish(2 * SECOND)
    assert still_open["syn_retransmissions"] == 9_999


def test_idle_connection():
    """An established connection stays in the table until it ends, as long as there is room."""
    table = Tracker()
    fed(table, (MS, segments(*exchange("cS sSA"))), (2 * MS, NOTHING), (10**6 * SECOND, NOTHING))
    assert len(table) == 1
    end = segments(*exchange("cF sF", start_ns=2 * 10**6 * SECOND))
    assert fed(table, (2 * 10**6 * SECOND + MS, end), (3 * 10**6 * SECOND, NOTHING)) == [[], ["FIN"]]


def flood(count, start_ns, kinds="cS"):
    """Return the segments of one script on each of many flows."""
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
    """D2, L2: with more attempts than room, the oldest are forgotten and counted, and the table does not grow."""
    table = Tracker(most=1000)
    for number in range(20):
        fed(table, (number * SECOND, flood(5000, number * SECOND - 10_000)))
    fed(table, (SYN_TIMEOUT_NS // 2, NOTHING))
    assert len(table) <= 1000
    assert table.forgotten >= 5000 - 1000


def test_ended_connections_are_forgotten_first():
    """Open connections stay if there are enough ended ones to forget; `forgotten` is then 0."""
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


def test_a_large_table_is_fast():
    """With 99,000 open connections, a batch about ten others changes few entries of the table."""
    table = Tracker()
    fed(table, (MS, flood(99_000, 10, "cS sSA")), (2 * MS, NOTHING))
    assert len(table) == 99_000
    before = table._kept["number"].copy()  # noqa: SLF001 (the test is about the number of changed entries)
    few = flood(10, 3 * MS, "cS sSA cF sF")
    fed(table, (4 * MS, few), (5 * MS, NOTHING))
    assert (before != table._kept["number"][: len(before)]).sum() < 1000  # noqa: SLF001 (as above)
