"""Round-trip times: single samples, and histograms by peer.

A histogram is consistent with the truth if, at every edge of a bucket, the numbers of values below and above the edge
are possible.
"""

from collections.abc import Iterator, Sequence

from lab.judging.finding import Finding, Verdict, absent, matched, value
from lab.judging.happened import Happened, Held
from lab.judging.kind import Kind
from lab.judging.quantity import Quantity, Row, Told
from lab.log2_histogram import bounds, slot_of
from lab.units import NS_OF_UNIT

_KNOWN = "the applications' timestamps around each message, and the wire's log of the shortest way"
_SLOTS = 64
"""Powers of two of nanoseconds that fit into 64 bits: more than of any other unit."""

_SAMPLES = {"raddr": "address of the peer", "value": "the RTT"}
_HISTOGRAMS = {
    "raddr": "address of the peer",
    "low": "smallest value of a bucket, in the quantity's unit",
    "count": "number of values in the bucket",
    "number": "number of all values",
    "mean": "their mean",
    "sum": "their sum",
}


class Histogram:
    """The histogram of one peer: number of values by slot (`lab.log2_histogram`, of the unit), their number and mean."""

    def __init__(self, rows: Sequence[Row], unit: str) -> None:
        self.unit = unit if unit in NS_OF_UNIT else "us"
        self.unit_ns = NS_OF_UNIT[self.unit]
        self.slots: dict[int, int] = {}
        self.raw = [row.raw for row in rows]
        number = mean_ns = sum_ns = None
        for row in rows:
            if row.get("low") is not None and row.get("count"):
                slot = slot_of(int(row.get("low")))
                self.slots[slot] = self.slots.get(slot, 0) + row.get("count")
            if row.get("number") is not None:
                number = int(row.get("number"))
            if row.get("mean") is not None:
                mean_ns = float(row.get("mean"))
            if row.get("sum") is not None:
                sum_ns = float(row.get("sum"))
        self.number = sum(self.slots.values()) if number is None else number
        self.mean_ns = sum_ns / number if sum_ns is not None and number else mean_ns


def histograms(quantity: Quantity, told: Told) -> dict[str, Histogram]:
    """Return the histogram of each peer."""
    rows: dict[str, list[Row]] = {}
    for row in told.rows:
        rows.setdefault(str(row.get("raddr") or ""), []).append(row)
    return {key: Histogram(them, quantity.unit) for key, them in rows.items()}


def of_samples(quantity: Quantity, told: Told, happened: Happened) -> Iterator[Finding]:
    """Yield a finding for each RTT to the server, and one for their number."""
    held = happened.smoothed if quantity.smoothed else happened.rtt
    if not held:
        return
    low_ns, high_ns = min(it.low_ns for it in held), max(it.high_ns for it in held)
    least = sum(it.least for it in held)
    interval = (low_ns, high_ns, low_ns)
    for server in happened.server:
        mine = [row for row in told.rows if row.get("raddr") == server]
        subject = f"the client to {server}"
        if not mine:
            yield absent("RTT", subject, interval, lost=told.lost, known_by=_KNOWN)
            continue
        for row in mine:
            yield value(
                "RTT", subject, interval, row.get("value"),
                resolution=quantity.resolution_ns, known_by=_KNOWN, rows=[row.raw],
            )  # fmt: skip
        # A tool that polls the smoothed RTT need not see each of its values.
        if not quantity.smoothed and len(mine) + told.lost < least:
            yield Finding(
                "number of RTTs", subject, Verdict.MISSING, "", least, sum(it.most for it in held), len(mine), least - len(mine),
                known_by=_KNOWN,
            )  # fmt: skip


def of_histograms(quantity: Quantity, told: Told, happened: Happened) -> Iterator[Finding]:
    """Yield findings for the histogram of the server: its buckets against the values that are possible, and its mean."""
    held = happened.smoothed if quantity.smoothed else happened.rtt
    if not held:
        return
    found = histograms(quantity, told)
    interval = (min(it.low_ns for it in held), max(it.high_ns for it in held), min(it.low_ns for it in held))
    for server in happened.server:
        subject = f"the client to {server}"
        mine = found.get(server)
        if mine is None or not mine.number:
            yield absent("histogram of RTTs", subject, interval, lost=told.lost, known_by=_KNOWN)
            continue
        shown = ", ".join(
            f"{bounds(slot)[0]}..{bounds(slot)[1]} {mine.unit}: {count}" for slot, count in sorted(mine.slots.items())
        )
        yield matched(
            "histogram of RTTs", subject, _possible(held), shown or "no buckets",
            right=consistent(mine, held), known_by=_KNOWN, rows=mine.raw[:5],
        )  # fmt: skip
        if mine.mean_ns is not None:
            resolution = max(quantity.resolution_ns, 1000)
            yield value(
                "mean RTT", subject, interval, mine.mean_ns, resolution=resolution, known_by=_KNOWN, rows=mine.raw[:1]
            )


def _possible(held: Sequence[Held]) -> str:
    return "; ".join(
        f"{it.least if it.least == it.most else f'{it.least} to {it.most}'} of {it.low_ns / 1000:.0f} to {it.high_ns / 1000:.0f} us"
        for it in held[:8]
    )


def consistent(histogram: Histogram, held: Sequence[Held]) -> bool:
    """Return true if the truth allows the histogram, and its number and mean agree with its own buckets."""
    unit_ns = histogram.unit_ns
    counts = [histogram.slots.get(slot, 0) for slot in range(_SLOTS)]
    lows, highs = zip(*(bounds(slot) for slot in range(_SLOTS)), strict=True)
    low_ns, high_ns = (
        sum(count * value for count, value in zip(counts, edges, strict=True)) * unit_ns / max(1, histogram.number)
        for edges in (lows, highs)
    )
    # The kernel cuts each value to microseconds, a tool to its own unit.
    slots = [(_slot(it.low_ns - 1000, unit_ns), _slot(it.high_ns, unit_ns), it) for it in held]
    return (
        histogram.number == sum(counts)
        and (histogram.mean_ns is None or low_ns - unit_ns <= histogram.mean_ns <= high_ns + unit_ns)
        and all(
            sum(it.least for first, _, it in slots if first >= edge)
            <= sum(counts[edge:])
            <= sum(it.most for _, last, it in slots if last >= edge)
            and sum(it.least for _, last, it in slots if last < edge)
            <= sum(counts[:edge])
            <= sum(it.most for first, _, it in slots if first < edge)
            for edge in range(_SLOTS + 1)
        )
    )


def _slot(ns: int, unit_ns: int) -> int:
    return min(_SLOTS - 1, slot_of(max(0, ns) // unit_ns))


KINDS = {
    "rtt": Kind("single round-trip times", _SAMPLES, of_samples),
    "rtt-histogram": Kind("histograms of round-trip times by peer", _HISTOGRAMS, of_histograms),
}
