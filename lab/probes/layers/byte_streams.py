"""Bytes of TCP's streams and the events that concern them: which stream, which bytes of it, which event of a kind came first.

A stream is one direction of one connection. Its bytes have positions that no other stream's have, so that a position alone says
which byte of which stream it is: sequence numbers wrap, and flows are used again. Pure functions over arrays, for events that
have saddr, daddr, sport, dport, seq, length, flags and time_ns, in order of time.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.arrays import Events, Integers, Mask
from lab.packet import ACK, SYN

NONE = -1
"""The index of an event that there is not."""

_OPENING = 255
_MULTIPLIER, _INCREMENT = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Streams:
    """Events with their places in their streams; all arrays but `bases` are as long as `events`.

    `at` is what kind of event it is; those that open a connection have one of their own. `connection` numbers the connections from
    0; `start` and `end` are positions, those of the event's first byte and behind its last; `tick` is the event's place in the order
    of time, the same for events of the same nanosecond. `bases` are the positions from which on each stream's are, in order.
    """

    events: Events
    at: npt.NDArray[np.uint8]
    connection: Integers
    start: Integers
    end: Integers
    tick: Integers
    bases: Integers

    def of(self, *kinds: int) -> Integers:
        """Return indices of the events at these places (`at`), those that open a connection left out."""
        chosen = np.zeros(_OPENING + 1, bool)
        chosen[list(kinds)] = True
        return np.flatnonzero(chosen[self.at])

    def stream(self, position: Integers) -> Integers:
        """Return the number of the stream that a position is in."""
        return np.searchsorted(self.bases, position, side="right")

    def values(self, index: Integers, name: str = "time_ns") -> Integers:
        """Return what events say under a name, `NONE` where there is no event."""
        if not len(self.events):
            return np.full(len(index), NONE)
        return np.where(index == NONE, NONE, self.events[name][index].astype(np.int64))


def streams(events: Events) -> Streams:
    """Find out which events belong together.

    A flow's next connection begins with a SYN that has another sequence number. From one event of a stream to the next, in order
    of time, sequence numbers differ by less than 2 GiB (RFC 9293, 3.4).
    """
    flow, upward = _flows(events)
    connection = _connections(events, flow)
    stream = connection * 2 + upward
    order = np.argsort(stream, kind="stable")
    begins = _changes(stream[order])
    seq = events["seq"][order]
    steps = np.zeros(len(events), np.int64)
    steps[1:] = (seq[1:] - seq[:-1]).view(np.int32)
    steps[begins] = 0
    since = np.cumsum(steps)
    firsts, number = np.flatnonzero(begins), np.cumsum(begins) - 1
    since -= since[firsts][number]
    length = events["length"].astype(np.int64)
    bases = np.zeros(0, np.int64)
    start = np.zeros(len(events), np.int64)
    if len(firsts):
        lowest = np.minimum.reduceat(since, firsts)
        highest = np.maximum.reduceat(since + length[order], firsts)
        bases = np.append(0, np.cumsum(highest - lowest + 1)[:-1])
        start[order] = since + (bases - lowest)[number]
    tick = np.cumsum(_changes(events["time_ns"])) - 1
    at = np.where(events["flags"] & SYN, _OPENING, events["at"]).astype(np.uint8)
    return Streams(events, at, connection, start, start + length, tick, bases)


def _changes(values: npt.NDArray[np.generic]) -> Mask:
    """Tell which values are not the same as the one before."""
    changes = np.ones(len(values), bool)
    changes[1:] = values[1:] != values[:-1]
    return changes


def _flows(events: Events) -> tuple[Integers, Mask]:
    """Return a number for each pair of ends, and which of the two ways each event goes.

    By a hash of 64 bits: of a million flows two share one with a probability of 1 to 30 million.
    """
    source, destination = (
        _mixed(
            *np.ascontiguousarray(events[f"{end}addr"]).view(np.uint32).reshape(-1, 4).T,
            events[f"{end}port"],
        )
        for end in "sd"
    )
    upward = source < destination
    pair = _mixed(np.where(upward, source, destination), np.where(upward, destination, source))
    return np.unique(pair, return_inverse=True)[1], upward


def _mixed(*columns: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """Mix values into one of 64 bits, in the manner of splitmix64."""
    mixed = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.uint64)) * _MULTIPLIER + _INCREMENT
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _connections(events: Events, flow: Integers) -> Integers:
    """Return the number of each event's connection: a SYN without ACK begins one, but for its repetition."""
    order = np.argsort(flow, kind="stable")
    begins = _changes(flow[order])
    opens = np.flatnonzero((events["flags"][order] & (SYN | ACK)) == SYN)
    another = _changes(flow[order[opens]]) | _changes(events["seq"][order[opens]])
    begins[opens[another]] = True
    connection = np.empty(len(events), np.int64)
    connection[order] = np.cumsum(begins) - 1
    return connection


class Cover:
    """Which events of one kind concern a byte: those whose bytes include it, in order of time."""

    def __init__(self, streams: Streams, *kinds: int) -> None:
        self._streams = streams
        chosen = streams.of(*kinds)
        start, end = streams.start[chosen], streams.end[chosen]
        chosen, start, end = (values[end > start] for values in (chosen, start, end))
        # Between two edges all bytes are the same events' concern: a cell. Events of many segments concern many cells.
        # Not by np.unique(): it hashes, which takes longer where most are different.
        edges = np.sort(np.concatenate([start, end]))
        self._edges = edges[_changes(edges)]
        first, last = np.searchsorted(self._edges, start), np.searchsorted(self._edges, end)
        count = last - first
        event = np.repeat(chosen, count)
        cell = np.repeat(first - np.cumsum(count) + count, count) + np.arange(len(event))
        self._ticks = int(streams.tick[-1]) + 1 if len(streams.tick) else 1
        self._all = self._sorted(event, cell)
        # Transmissions of the same byte are told apart by TCP's timestamp.
        self._names, code = np.unique(self._named(cell, streams.events["tsval"][event]), return_inverse=True)
        self._alike = self._sorted(event, code)

    def first(self, byte: Integers) -> Integers:
        """Return the first event of each byte, or `NONE`."""
        return self._after(self._all, self._cells(byte), np.zeros(len(byte), np.int64))

    def last(self, byte: Integers) -> Integers:
        """Return the last event of each byte, or `NONE`."""
        return self._before(self._all, self._cells(byte), np.full(len(byte), self._ticks - 1))

    def latest(self, byte: Integers, other: Integers) -> Integers:
        """Return the latest event of each byte, up to the time of another of the same transmission, or `NONE`."""
        return self._before(self._alike, self._code(byte, other), self._tick(other))

    def next(self, byte: Integers, other: Integers) -> Integers:
        """Return the next event of each byte, from the time of another of the same transmission on, or `NONE`."""
        return self._after(self._alike, self._code(byte, other), self._tick(other))

    def count(self, byte: Integers) -> Integers:
        """Return how many events there are of each byte."""
        cell, keys = self._cells(byte), self._all[0]
        low, high = (np.searchsorted(keys, edge * self._ticks) for edge in (cell, cell + 1))
        return np.where(cell == NONE, 0, high - low)

    def _sorted(self, event: Integers, group: Integers) -> tuple[Integers, Integers]:
        """Return keys that order events by group and time, and the events in that order."""
        keys = group * self._ticks + self._streams.tick[event]
        order = np.argsort(keys, kind="stable")
        return keys[order], event[order]

    def _cells(self, byte: Integers) -> Integers:
        if not len(self._edges):
            return np.full(len(byte), NONE)
        cell = np.searchsorted(self._edges, byte, side="right") - 1
        return np.where(cell < len(self._edges) - 1, cell, NONE)

    def _named(self, cell: Integers, tsval: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
        return cell.astype(np.uint64) << np.uint64(32) | tsval.astype(np.uint64)

    def _code(self, byte: Integers, other: Integers) -> Integers:
        """Return the group of a byte and the transmission that another event is of, `NONE` where there is none."""
        known = (byte != NONE) & (other != NONE)
        cell = np.where(known, self._cells(byte), NONE)
        if not len(self._names):
            return np.full(len(byte), NONE)
        name = self._named(np.maximum(cell, 0), self._streams.events["tsval"][other])
        code = np.minimum(np.searchsorted(self._names, name), len(self._names) - 1)
        return np.where((cell != NONE) & (self._names[code] == name), code, NONE)

    def _tick(self, other: Integers) -> Integers:
        return self._streams.tick[other] if len(self._streams.tick) else np.zeros(len(other), np.int64)

    def _before(self, table: tuple[Integers, Integers], group: Integers, tick: Integers) -> Integers:
        keys, events = table
        found = np.searchsorted(keys, group * self._ticks + tick, side="right") - 1
        return self._checked(table, group, found, events)

    def _after(self, table: tuple[Integers, Integers], group: Integers, tick: Integers) -> Integers:
        keys, events = table
        return self._checked(table, group, np.searchsorted(keys, group * self._ticks + tick), events)

    def _checked(
        self, table: tuple[Integers, Integers], group: Integers, found: Integers, events: Integers
    ) -> Integers:
        if not len(events):
            return np.full(len(group), NONE)
        inside = np.clip(found, 0, len(events) - 1)
        right = (group != NONE) & (found == inside) & (table[0][inside] // self._ticks == group)
        return np.where(right, events[inside], NONE)


class Reach:
    """When a stream had come so far: events that tell of the first byte that is not there yet."""

    def __init__(self, streams: Streams, *kinds: int) -> None:
        self._streams = streams
        chosen = streams.of(*kinds)
        self._events = chosen[np.lexsort((streams.tick[chosen], streams.start[chosen]))]
        self._starts = streams.start[self._events]

    def first(self, byte: Integers) -> Integers:
        """Return the first event by which each byte was there, or `NONE`."""
        if not len(self._events):
            return np.full(len(byte), NONE)
        found = np.searchsorted(self._starts, byte + 1)
        inside = np.minimum(found, len(self._events) - 1)
        same = self._streams.stream(self._starts[inside]) == self._streams.stream(byte)
        return np.where((found == inside) & same & (byte != NONE), self._events[inside], NONE)
