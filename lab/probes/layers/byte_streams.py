"""Find the events of a byte of a TCP stream: pure functions over arrays.

A stream is one direction of one connection. Each of its bytes has a position, a number that no byte of another stream
has. Positions are needed because sequence numbers wrap and flows are reused. Events have saddr, daddr, sport, dport,
seq, length, flags, tsval, at and time_ns, and are in order of time. What does not live here: the stages of a byte's
path (lab/probes/layers/stages.py).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.arrays import Events, Integers, Mask
from lab.packet import ACK, SYN

NONE = -1
"""Index that stands for a missing event."""

IGNORED = 255
"""Kind of an event that is in no index."""

_MULTIPLIER, _INCREMENT = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Streams:
    """Events with the positions of their bytes. All arrays except `bases` are as long as `events`.

    - `at`: kind of the event; `IGNORED` for those with a SYN and no data.
    - `connection`: number of the connection, from 0.
    - `start`, `end`: position of the first byte, and the position after the last.
    - `tick`: rank of the event in time; events of the same nanosecond share it.
    - `bases`: lowest position of each stream, ascending.
    """

    events: Events
    at: npt.NDArray[np.uint8]
    connection: Integers
    start: Integers
    end: Integers
    tick: Integers
    bases: Integers

    def of(self, *kinds: int) -> Integers:
        """Return the indices of the events of these kinds (`at`), without SYNs that have no data."""
        chosen = np.zeros(IGNORED + 1, bool)
        chosen[list(kinds)] = True
        return np.flatnonzero(chosen[self.at])

    def stream(self, position: Integers) -> Integers:
        """Return the number of the stream of each position."""
        return np.searchsorted(self.bases, position, side="right")

    def values(self, index: Integers, name: str = "time_ns") -> Integers:
        """Return a field of the events with these indices, `NONE` where there is no event."""
        if not len(self.events):
            return np.full(len(index), NONE)
        return np.where(index == NONE, NONE, self.events[name][index].astype(np.int64))


def streams(events: Events) -> Streams:
    """Return the events with their connections and positions.

    The next connection of a flow begins with a SYN that has another sequence number. Sequence numbers of consecutive
    events of a stream differ by less than 2 GiB (RFC 9293, 3.4).
    """
    flow, upward = _flows(events)
    connection = _connections(events, flow)
    stream = connection * 2 + upward
    order = np.argsort(stream, kind="stable")
    begins = _changes(stream[order])
    firsts, number = np.flatnonzero(begins), np.cumsum(begins) - 1
    opens = events["flags"] & SYN > 0
    seq = events["seq"] + opens.astype(np.uint32)  # the SYN has a number, and is no byte (RFC 9293, 3.4)
    since = _unwrapped(seq[order], begins)
    since -= since[firsts][number]
    length = events["length"].astype(np.int64)
    bases = np.zeros(0, np.int64)
    start = np.zeros(len(events), np.int64)
    if len(firsts):  # the positions of a stream follow those of the stream before
        lowest = np.minimum.reduceat(since, firsts)
        highest = np.maximum.reduceat(since + length[order], firsts)
        bases = np.append(0, np.cumsum(highest - lowest + 1)[:-1])
        start[order] = since + (bases - lowest)[number]
    tick = np.cumsum(_changes(events["time_ns"])) - 1
    at = np.where(opens & (events["length"] == 0), IGNORED, events["at"]).astype(np.uint8)
    return Streams(events, at, connection, start, start + length, tick, bases)


def _unwrapped(seq: npt.NDArray[np.uint32], begins: Mask) -> Integers:
    """Return sequence numbers that do not wrap, with an arbitrary origin for each stream.

    Events are sorted by stream and time; `begins` marks the first one of each stream.
    """
    steps = np.zeros(len(seq), np.int64)
    steps[1:] = (seq[1:] - seq[:-1]).view(np.int32)
    steps[begins] = 0
    return np.cumsum(steps)


def _changes(values: npt.NDArray[np.generic]) -> Mask:
    """Return which values differ from the value before; the first one does."""
    changes = np.ones(len(values), bool)
    changes[1:] = values[1:] != values[:-1]
    return changes


def _flows(events: Events) -> tuple[Integers, Mask]:
    """Return the number of the flow of each event, and its direction in it.

    Flows are distinguished by a hash of 64 bits: among a million flows, two have the same one with a probability of 1
    in 30 million.
    """
    source, destination = (
        mixed(
            *np.ascontiguousarray(events[f"{end}addr"]).view(np.uint32).reshape(-1, 4).T,
            events[f"{end}port"],
        )
        for end in "sd"
    )
    upward = source < destination
    pair = mixed(np.where(upward, source, destination), np.where(upward, destination, source))
    return np.unique(pair, return_inverse=True)[1], upward


def mixed(*columns: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """Return a hash of 64 bits of each row of the columns, in the manner of splitmix64."""
    mixed = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.uint64)) * _MULTIPLIER + _INCREMENT
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _connections(events: Events, flow: Integers) -> Integers:
    """Return the number of the connection of each event: a SYN without ACK begins one, unless retransmitted."""
    order = np.argsort(flow, kind="stable")
    begins = _changes(flow[order])
    opens = np.flatnonzero((events["flags"][order] & (SYN | ACK)) == SYN)
    another = _changes(flow[order[opens]]) | _changes(events["seq"][order[opens]])
    begins[opens[another]] = True
    connection = np.empty(len(events), np.int64)
    connection[order] = np.cumsum(begins) - 1
    return connection


class Cover:
    """Index of the events of some kinds by the bytes that they contain, in order of time."""

    def __init__(self, streams: Streams, *kinds: int) -> None:
        self._streams = streams
        chosen = streams.of(*kinds)
        start, end = streams.start[chosen], streams.end[chosen]
        chosen, start, end = (values[end > start] for values in (chosen, start, end))
        # A cell is the bytes between two neighbouring edges: the same events contain all of them. An event of many
        # segments contains many cells. np.unique() would hash, which takes longer when most values are different.
        edges = np.sort(np.concatenate([start, end]))
        self._edges = edges[_changes(edges)]
        first, last = np.searchsorted(self._edges, start), np.searchsorted(self._edges, end)
        count = last - first
        event = np.repeat(chosen, count)
        cell = np.repeat(first - np.cumsum(count) + count, count) + np.arange(len(event))
        self._ticks = int(streams.tick[-1]) + 1 if len(streams.tick) else 1
        self._by_cell = self._sorted(event, cell)
        # The TCP timestamp distinguishes transmissions of the same byte.
        self._transmissions, code = np.unique(
            self._transmission(cell, streams.events["tsval"][event]), return_inverse=True
        )
        self._by_transmission = self._sorted(event, code)

    def first(self, byte: Integers) -> Integers:
        """Return the first event of each byte, or `NONE`."""
        return self._first_from(self._by_cell, self._cells(byte), np.zeros(len(byte), np.int64))

    def last(self, byte: Integers) -> Integers:
        """Return the last event of each byte, or `NONE`."""
        return self._last_until(self._by_cell, self._cells(byte), np.full(len(byte), self._ticks - 1))

    def latest(self, byte: Integers, other: Integers) -> Integers:
        """Return the latest event of each byte in the transmission of the `other` event, up to its time, or `NONE`."""
        return self._last_until(self._by_transmission, self._code(byte, other), self._tick(other))

    def next(self, byte: Integers, other: Integers) -> Integers:
        """Return the next event of each byte in the transmission of the `other` event, from its time on, or `NONE`."""
        return self._first_from(self._by_transmission, self._code(byte, other), self._tick(other))

    def count(self, byte: Integers) -> Integers:
        """Return the number of events of each byte."""
        cell, keys = self._cells(byte), self._by_cell[0]
        low, high = (np.searchsorted(keys, edge * self._ticks) for edge in (cell, cell + 1))
        return np.where(cell == NONE, 0, high - low)

    def _sorted(self, event: Integers, group: Integers) -> tuple[Integers, Integers]:
        """Return keys that order events by group and time, and the events in that order."""
        keys = group * self._ticks + self._streams.tick[event]
        order = np.argsort(keys, kind="stable")
        return keys[order], event[order]

    def _cells(self, byte: Integers) -> Integers:
        """Return the cell of each byte, `NONE` outside all cells."""
        if not len(self._edges):
            return np.full(len(byte), NONE)
        cell = np.searchsorted(self._edges, byte, side="right") - 1
        return np.where(cell < len(self._edges) - 1, cell, NONE)

    def _transmission(self, cell: Integers, tsval: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
        return cell.astype(np.uint64) << np.uint64(32) | tsval.astype(np.uint64)

    def _code(self, byte: Integers, other: Integers) -> Integers:
        """Return the group in `_by_transmission` of each byte in the transmission of the `other` event, or `NONE`."""
        known = (byte != NONE) & (other != NONE)
        cell = np.where(known, self._cells(byte), NONE)
        if not len(self._transmissions):
            return np.full(len(byte), NONE)
        name = self._transmission(np.maximum(cell, 0), self._streams.events["tsval"][other])
        code = np.minimum(np.searchsorted(self._transmissions, name), len(self._transmissions) - 1)
        return np.where((cell != NONE) & (self._transmissions[code] == name), code, NONE)

    def _tick(self, other: Integers) -> Integers:
        return self._streams.tick[other] if len(self._streams.tick) else np.zeros(len(other), np.int64)

    def _last_until(self, table: tuple[Integers, Integers], group: Integers, tick: Integers) -> Integers:
        found = np.searchsorted(table[0], group * self._ticks + tick, side="right") - 1
        return self._in_group(table, group, found)

    def _first_from(self, table: tuple[Integers, Integers], group: Integers, tick: Integers) -> Integers:
        return self._in_group(table, group, np.searchsorted(table[0], group * self._ticks + tick))

    def _in_group(self, table: tuple[Integers, Integers], group: Integers, found: Integers) -> Integers:
        """Return the events at the found places of the table, `NONE` where the event is not in the group."""
        keys, events = table
        if not len(events):
            return np.full(len(group), NONE)
        inside = np.clip(found, 0, len(events) - 1)
        right = (group != NONE) & (found == inside) & (keys[inside] // self._ticks == group)
        return np.where(right, events[inside], NONE)


class Reach:
    """Index of the events whose `seq` is the first missing byte: when a stream was complete up to a byte."""

    def __init__(self, streams: Streams, *kinds: int) -> None:
        self._streams = streams
        chosen = streams.of(*kinds)
        self._events = chosen[np.lexsort((streams.tick[chosen], streams.start[chosen]))]
        self._starts = streams.start[self._events]

    def first(self, byte: Integers) -> Integers:
        """Return the first event at which each byte was present, or `NONE`."""
        if not len(self._events):
            return np.full(len(byte), NONE)
        found = np.searchsorted(self._starts, byte + 1)
        inside = np.minimum(found, len(self._events) - 1)
        same = self._streams.stream(self._starts[inside]) == self._streams.stream(byte)
        return np.where((found == inside) & same & (byte != NONE), self._events[inside], NONE)
