"""Time of TCP data in each layer, from the write() of one application to the read() of the other: pure functions.

The probe `layers` reports points: which bytes passed which place at which time. `Stages` follows one byte from point
to point, the last byte of a segment or of a request, because there the whole of it is complete. A layer lasts from
one stage of that byte to the next, so all layers add up exactly to the whole time. What does not live here: pairing
requests and replies (lab/probes/layers/requests.py).
"""

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Self

import numpy as np

from lab.arrays import UNKNOWN, Events, Integers, Mask, Rows, in_order
from lab.errors import LabError
from lab.probes.layers.byte_streams import IGNORED, NONE, Cover, Reach, Streams, streams
from lab.recording.recording import Recording


class At(IntEnum):
    """Place of a point, as in `enum layer_point` of bpf/layers/event.h (a test compares the two)."""

    WRITE = 0
    TC_OUT = 1
    DEVICE_OUT = 2
    DEVICE_IN = 3
    TC_IN = 4
    TCP_IN = 5
    READY = 6
    READ = 7


OLD_DATA = 1
"""Value of `of_socket` of a segment whose data its socket has sent or received before, and of one without data."""

NEW_DATA = 2
"""Value of `of_socket` of a segment with data that its socket has not sent or received before (bpf/layers/event.h)."""


BY_MPTCP = 2
"""Value of `multiplexed` of a segment of an MPTCP subflow (bpf/layers/event.h)."""


class Stop(IntEnum):
    """Stages of a byte's path, in order. Arrays called `stops` have one time for each, in nanoseconds."""

    BEGUN = 0  # the application begins with the request or the reply of the byte
    WRITTEN = 1  # the application enters the system call that writes the byte
    FIRST_OUT = 2  # TC egress, first transmission
    TC_OUT = 3  # TC egress, the transmission that arrived
    DEVICE_OUT = 4
    DEVICE_IN = 5
    TC_IN = 6
    TCP_IN = 7
    READY = 8  # the socket reports the data to its reader
    AWAKE = 9  # a reader that was blocked runs
    PICKED = 10  # a reader that was busy asks for the data
    READ = 11  # the system call returns the byte


LAYERS = ("application", "write", "resend", "qdisc", "wire", "receive", "ip", "tcp", "wake_up", "queue", "read")
"""Names of the layers: layer n lasts from stage n to stage n + 1."""

FATES = ("delivered", "duplicate", "not accepted", "lost", "not seen")
"""Fates of a segment.

- delivered: TCP received its data for the first time
- duplicate: TCP had received the data before
- not accepted: it arrived, and did not reach TCP
- lost: it did not arrive
- not seen: the receiver was not observed
"""

Ports = int | Sequence[int]
"""One port, or several."""


def are_servers(ports: Integers, others: Integers, chosen: Ports) -> Mask:
    """Mark the ends that are servers, by their ports and the ports of the other ends.

    If both ends have a chosen port, the server is the end with the lower one.
    """
    return np.isin(ports, chosen) & (~np.isin(others, chosen) | (ports <= others))


_PACKET = np.dtype(
    [
        ("time_ns", "i8"),
        ("netns", "u4"),
        ("saddr", "u1", 16),
        ("sport", "u2"),
        ("daddr", "u1", 16),
        ("dport", "u2"),
        ("seq", "u4"),
        ("length", "u4"),
        ("read_length", "i8"),
        ("fate", "u1"),
        ("stops", "i8", len(Stop)),
        ("contradictory", "?"),
    ]
)

_CALLS = (Stop.BEGUN, Stop.WRITTEN, Stop.READ)


def consistent(stops: Integers) -> tuple[Integers, Mask]:
    """Return stages in order of time, `UNKNOWN` where they contradict others, and which paths have such stages.

    The last axis of `stops` is the stages of a byte, or those of several bytes one after the other. A stage contradicts
    another if one comes before the other in the list and has a later time. The calls of the applications are right
    about other stages: the kernel announces some data late or never (TCP Fast Open, SO_RCVLOWAT, urgent data), and
    then the stage seems to be that of later data.
    """
    call = np.isin(np.arange(stops.shape[-1]) % len(Stop), _CALLS)
    right = _without(stops, ~call & _contradicts(stops, call))
    right = _without(right, _contradicts(right, np.ones(len(call), bool)))
    return right, (right != stops).any(axis=-1)


def _without(stops: Integers, wrong: Mask) -> Integers:
    return np.where(wrong, UNKNOWN, stops)


def _contradicts(stops: Integers, judges: Mask) -> Mask:
    """Return the known stages that are before an earlier one, or after a later one, of those that `judges` selects."""
    judging = judges & (stops != UNKNOWN)
    far = np.iinfo(np.int64).max
    low = np.maximum.accumulate(np.where(judging, stops, -far), axis=-1)
    high = np.minimum.accumulate(np.where(judging, stops, far)[..., ::-1], axis=-1)[..., ::-1]
    return (stops != UNKNOWN) & ((stops < low) | (stops > high))


def layers_ns(stops: Integers) -> Integers:
    """Return the duration of each layer (last axis: `LAYERS`), `UNKNOWN` unless both of its stages were observed."""
    known = (stops[..., 1:] != UNKNOWN) & (stops[..., :-1] != UNKNOWN)
    return np.where(known, np.diff(stops), UNKNOWN)


def elsewhere_ns(stops: Integers) -> Integers:
    """Return the time in layers that were not observed, between the first and the last observed stage."""
    known = stops != UNKNOWN
    first = np.take_along_axis(stops, known.argmax(axis=-1)[..., None], -1)[..., 0]
    last = np.take_along_axis(stops, stops.shape[-1] - 1 - known[..., ::-1].argmax(axis=-1)[..., None], -1)[..., 0]
    layers = layers_ns(stops)
    return last - first - np.where(layers == UNKNOWN, 0, layers).sum(axis=-1)


def _forwarded(streams: Streams) -> Mask:
    """Return the segments that a network namespace received and sent on: none of its sockets sent them."""
    events, at = streams.events, streams.events["at"]
    place = streams.stream(streams.start) << 32 | events["netns"]
    sent = (at == At.TC_OUT) | (at == At.DEVICE_OUT)
    came = (at == At.DEVICE_IN) | (at == At.TC_IN)
    own = (at == At.WRITE) | ((at == At.TC_OUT) & (events["of_socket"] > 0))
    through = np.intersect1d(place[sent], place[came])
    return (sent | came) & np.isin(place, np.setdiff1d(through, place[own]))


class Stages:
    """The stages of all bytes that some points contain.

    `events` are the points of the probe `layers`, in order of time. With `inodes`, points of other network namespaces
    are ignored.
    """

    def __init__(self, events: Events, inodes: tuple[int, ...] | None = None) -> None:
        if inodes is not None:
            events = events[np.isin(events["netns"], inodes)]
        self.streams: Streams = streams(events)
        self.streams.at[_forwarded(self.streams)] = IGNORED
        self.covers = {at: Cover(self.streams, at) for at in At if at is not At.READY}
        self._ready = Reach(self.streams, At.READY)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the stages of a saved recording, in the network namespaces of its devices.

        Raises `LabError` if the file is not a recording or has no events of the probe `layers`.
        """
        recording = Recording.load(path)
        if "layers" not in recording.events:
            raise LabError(f"{path} has no events of the probe layers: record it again with this probe")
        return cls(recording.events["layers"], tuple(inode for _, inode in recording.devices.values()) or None)

    @property
    def events(self) -> Events:
        """The points."""
        return self.streams.events

    def of_bytes(self, byte: Integers) -> Integers:
        """Return the time of each stage (last axis) of the bytes at these positions; `UNKNOWN` if not observed.

        For a byte that was transmitted several times, the transmission that reached TCP first counts. If the receiver
        was not observed, the last transmission counts.
        """
        covers = self.covers
        ready = self._ready.first(byte)
        tcp_in = covers[At.TCP_IN].first(byte)
        tc_in = covers[At.TC_IN].latest(byte, tcp_in)
        device_in = covers[At.DEVICE_IN].latest(byte, tc_in)
        device_out = covers[At.DEVICE_OUT].latest(byte, device_in)
        tc_out = covers[At.TC_OUT].latest(byte, device_out)
        first_out = covers[At.TC_OUT].first(byte)
        alone = (device_in == NONE) & (first_out != NONE)
        tc_out[alone] = covers[At.TC_OUT].last(byte[alone])
        device_out[alone] = covers[At.DEVICE_OUT].next(byte[alone], tc_out[alone])
        points = (first_out, tc_out, device_out, device_in, tc_in, tcp_in, ready)
        return self._stops(byte, points, covers[At.READ].first(byte))

    def appeared_ns(self, byte: Integers) -> Integers:
        """Return the time of the first point of a segment or a write() that contains each byte, `UNKNOWN` if none."""
        times = np.stack(
            [self.streams.values(cover.first(byte)) for at, cover in self.covers.items() if at is not At.READ]
        )
        first_ns = np.where(times == UNKNOWN, np.iinfo(np.int64).max, times).min(axis=0)
        return np.where((times == UNKNOWN).all(axis=0), UNKNOWN, first_ns)

    def packets(self) -> Rows:
        """Return each segment that was given to a driver, with the stages of its last byte, in order of time.

        If the sender was not observed: each segment that a driver received. Fields of a row:

        - `time_ns`, `netns`: of the point at that driver
        - `saddr`, `sport`, `daddr`, `dport`: the flow, sender first
        - `seq`, `length`
        - `fate`: index in `FATES`
        - `stops`: time of each stage
        - `read_length`: bytes that the read() of its last byte returned, which may include bytes of other segments
        - `contradictory`: true if stages are unknown because they contradicted others (`consistent`)

        Of two transmissions in the same millisecond, the later one counts as the one that arrived.
        """
        streams, covers = self.streams, self.covers
        out = self._segments(At.DEVICE_OUT)
        seen = np.isin(streams.stream(streams.start), streams.stream(streams.start[out]))
        came = self._segments(At.DEVICE_IN)
        came = came[~seen[came]]
        byte = streams.end[np.concatenate([out, came])] - 1
        device_out = np.concatenate([out, np.full(len(came), NONE)])
        device_in = np.concatenate([covers[At.DEVICE_IN].next(byte[: len(out)], out), came])
        # A later transmission may be the one that arrived.
        another = covers[At.DEVICE_OUT].latest(byte, device_in) != device_out
        device_in[another & (device_out != NONE)] = NONE
        tc_in = covers[At.TC_IN].next(byte, device_in)
        tcp_in = covers[At.TCP_IN].next(byte, tc_in)
        # A later transmission may be the one that reached TCP: without TCP timestamps all of them look the same.
        tcp_in[covers[At.TC_IN].latest(byte, tcp_in) != tc_in] = NONE
        ready = self._ready.first(byte)
        delivered = (tcp_in != NONE) & (tcp_in == covers[At.TCP_IN].first(byte))
        fate = np.select(
            [delivered, tcp_in != NONE, device_in != NONE, self._receiver_observed(byte)], range(4), default=4
        )
        ready[~delivered] = NONE
        tc_out = covers[At.TC_OUT].latest(byte, device_out)
        first_out = np.where(device_out == NONE, NONE, covers[At.TC_OUT].first(byte))
        points = (first_out, tc_out, device_out, device_in, tc_in, tcp_in, ready)
        index = np.where(device_out == NONE, device_in, device_out)
        rows = np.zeros(len(byte), _PACKET)
        for name in ("time_ns", "netns", "saddr", "sport", "daddr", "dport", "seq", "length"):
            rows[name] = self.events[name][index]
        rows["fate"] = fate
        read = np.where(delivered, covers[At.READ].first(byte), NONE)
        rows["read_length"] = streams.values(read, "length")
        rows["stops"], rows["contradictory"] = consistent(self._stops(byte, points, read))
        return in_order(rows)

    def _segments(self, at: At) -> Integers:
        """Return the indices of the points of a place that have data."""
        index = self.streams.of(at)
        return index[self.events["length"][index] > 0]

    def _receiver_observed(self, byte: Integers) -> Mask:
        """Return true for bytes of streams of which any arrival was observed."""
        arrivals = self.streams.of(At.DEVICE_IN, At.TC_IN, At.TCP_IN)
        return np.isin(self.streams.stream(byte), self.streams.stream(self.streams.start[arrivals]))

    def _stops(self, byte: Integers, points: tuple[Integers, ...], read: Integers) -> Integers:
        """Return the times of all stages, given the indices of the points FIRST_OUT to READY and of the read()."""
        values = self.streams.values
        stops = np.full((len(byte), len(Stop)), UNKNOWN)
        written = self.covers[At.WRITE].first(byte)
        stops[:, Stop.BEGUN] = stops[:, Stop.WRITTEN] = values(written, "enter_ns")
        for stop, index in enumerate(points, Stop.FIRST_OUT):
            stops[:, stop] = values(index)
        ready_ns = stops[:, Stop.READY]
        # A reader that entered read() before the data was ready slept there. Otherwise it may have slept in poll() or a
        # similar call. That sleep counts if the data of this socket ended it, and if it had not returned by then.
        enter_ns, copied_ns, woken_ns, told_ns = (
            values(read, name) for name in ("enter_ns", "awake_ns", "woken_ns", "told_ns")
        )
        polled_ns = np.where(woken_ns <= ready_ns, told_ns, 0)
        awake_ns = np.maximum(np.where(enter_ns <= ready_ns, copied_ns, polled_ns), ready_ns)
        picked_ns = np.maximum(enter_ns, awake_ns)
        known = (read != NONE) & (ready_ns != UNKNOWN)
        stops[:, Stop.AWAKE] = np.where(known, awake_ns, UNKNOWN)
        stops[:, Stop.PICKED] = np.where(known, picked_ns, UNKNOWN)
        stops[:, Stop.READ] = values(read)
        return stops
