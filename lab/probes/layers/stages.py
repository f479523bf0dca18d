"""How long TCP's data was in each layer, from the write() of one application to the read() of the other: pure functions.

The probe `layers` tells of points: which bytes were where, when. One byte is followed from point to point, the last of a segment or
of a request, since it is there that something is complete. A layer lasts from one stop of that byte to the next, so that the
layers add up to the whole way, exactly.
"""

from enum import IntEnum
from pathlib import Path
from typing import Self

import numpy as np

from lab.arrays import UNKNOWN, Events, Integers, Mask, Rows
from lab.ebpf.recording import Recording
from lab.errors import LabError
from lab.probes.layers.byte_streams import NONE, Cover, Reach, Streams, streams


class At(IntEnum):
    """Where a point is: `enum layer_point` in bpf/layers/event.h (a test compares the two)."""

    WRITE = 0
    TC_OUT = 1
    DEVICE_OUT = 2
    DEVICE_IN = 3
    TC_IN = 4
    TCP_IN = 5
    READY = 6
    READ = 7


class Stop(IntEnum):
    """Stops on a byte's way, in their order."""

    BEGUN = 0  # what the byte belongs to was begun with
    WRITTEN = 1  # the application enters the system call that hands it over
    FIRST_OUT = 2  # TC egress, the first time
    TC_OUT = 3  # TC egress, of the transmission that arrived
    DEVICE_OUT = 4
    DEVICE_IN = 5
    TC_IN = 6
    TCP_IN = 7
    READY = 8  # the socket tells its reader
    AWAKE = 9  # a reader that waited for it runs
    PICKED = 10  # a reader that did not wait for it comes for it
    READ = 11  # the system call returns it


LAYERS = ("application", "write", "resend", "qdisc", "wire", "receive", "ip", "tcp", "wake_up", "queue", "read")
"""Names of the layers: layer n lasts from stop n to stop n + 1."""

FATES = ("delivered", "duplicate", "not accepted", "lost", "not seen")
"""What became of a segment: its data went to the reader; had come before; came, and TCP never got it; never came; nobody watched."""

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
    ]
)


def layers_ns(stops: Integers) -> Integers:
    """How long each layer lasted: `LAYERS` in the last axis, `UNKNOWN` where nobody watched one of its two stops."""
    known = (stops[..., 1:] != UNKNOWN) & (stops[..., :-1] != UNKNOWN)
    return np.where(known, np.diff(stops), UNKNOWN)


def elsewhere_ns(stops: Integers) -> Integers:
    """How long the byte was in layers that nobody watched, between stops that somebody did."""
    known = stops != UNKNOWN
    first = np.take_along_axis(stops, known.argmax(axis=-1)[..., None], -1)[..., 0]
    last = np.take_along_axis(stops, stops.shape[-1] - 1 - known[..., ::-1].argmax(axis=-1)[..., None], -1)[..., 0]
    layers = layers_ns(stops)
    return last - first - np.where(layers == UNKNOWN, 0, layers).sum(axis=-1)


class Stages:
    """The ways of the bytes that some points tell of.

    `events` are those of the probe `layers`, in order of time; with `inodes` only those in these network namespaces count.
    """

    def __init__(self, events: Events, inodes: tuple[int, ...] | None = None) -> None:
        if inodes is not None:
            events = events[np.isin(events["netns"], inodes)]
        self.streams: Streams = streams(events)
        self.covers = {at: Cover(self.streams, at) for at in At if at is not At.READY}
        self._ready = Reach(self.streams, At.READY)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read those of a saved recording, in the namespaces that it was made in.

        Raises `LabError` when the file is no recording, or the probe was not part of it.
        """
        recording = Recording.load(path)
        if "layers" not in recording.events:
            raise LabError(f"{path} has nothing of the probe layers: record it again, with that probe")
        return cls(recording.events["layers"], tuple(inode for _, inode in recording.devices.values()) or None)

    @property
    def events(self) -> Events:
        """The points."""
        return self.streams.events

    def of_bytes(self, byte: Integers) -> Integers:
        """Return the stops of bytes, by position; `UNKNOWN` where none was seen.

        A byte that was transmitted several times came by the transmission that reached TCP first. Where nobody watched the receiver,
        the last one is taken for it.
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

    def packets(self) -> Rows:
        """Return each segment that was given to a driver, and the way of its last byte, in order of time.

        Where nobody watched the sender, each segment that came. Fields: `time_ns` and `netns` of that point, the flow, sender first,
        `seq` and `length`, its `fate` (`FATES`), the `stops`, and `read_length`: what the read() returned that returned its last
        byte, which may be other segments' bytes as well. Of two transmissions in the same millisecond the later one counts as the
        one that came.
        """
        streams, covers = self.streams, self.covers
        out = self._segments(At.DEVICE_OUT)
        seen = np.isin(streams.stream(streams.start), streams.stream(streams.start[out]))
        came = self._segments(At.DEVICE_IN)
        came = came[~seen[came]]
        byte = streams.end[np.concatenate([out, came])] - 1
        device_out = np.concatenate([out, np.full(len(came), NONE)])
        device_in = np.concatenate([covers[At.DEVICE_IN].next(byte[: len(out)], out), came])
        # A later transmission may be the one that came.
        another = covers[At.DEVICE_OUT].latest(byte, device_in) != device_out
        device_in[another & (device_out != NONE)] = NONE
        tc_in = covers[At.TC_IN].next(byte, device_in)
        tcp_in = covers[At.TCP_IN].next(byte, tc_in)
        ready = self._ready.first(byte)
        delivered = (tcp_in != NONE) & (tcp_in == covers[At.TCP_IN].first(byte))
        fate = np.select(
            [delivered, tcp_in != NONE, device_in != NONE, self._watched_receiver(byte)], range(4), default=4
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
        rows["stops"] = self._stops(byte, points, read)
        return rows[np.argsort(rows["time_ns"], kind="stable")]

    def _segments(self, at: At) -> Integers:
        index = self.streams.of(at)
        return index[self.events["length"][index] > 0]

    def _watched_receiver(self, byte: Integers) -> Mask:
        arrivals = self.streams.of(At.DEVICE_IN, At.TC_IN, At.TCP_IN)
        return np.isin(self.streams.stream(byte), self.streams.stream(self.streams.start[arrivals]))

    def _stops(self, byte: Integers, points: tuple[Integers, ...], read: Integers) -> Integers:
        """Return times: of the system calls that handed the bytes over and returned them, and of what was between."""
        values = self.streams.values
        stops = np.full((len(byte), len(Stop)), UNKNOWN)
        written = self.covers[At.WRITE].first(byte)
        stops[:, Stop.BEGUN] = stops[:, Stop.WRITTEN] = values(written, "enter_ns")
        for stop, index in enumerate(points, Stop.FIRST_OUT):
            stops[:, stop] = values(index)
        ready_ns = stops[:, Stop.READY]
        # A reader that was there before the data slept in its read() until it came, or else before that: in poll() and the like.
        # Who sleeps later waits for something else.
        enter_ns, woken_ns, told_ns = (values(read, name) for name in ("enter_ns", "awake_ns", "told_ns"))
        awake_ns = np.maximum(np.where(enter_ns <= ready_ns, woken_ns, told_ns), ready_ns)
        picked_ns = np.maximum(enter_ns, awake_ns)
        known = (read != NONE) & (ready_ns != UNKNOWN)
        stops[:, Stop.AWAKE] = np.where(known, awake_ns, UNKNOWN)
        stops[:, Stop.PICKED] = np.where(known, picked_ns, UNKNOWN)
        stops[:, Stop.READ] = values(read)
        return stops
