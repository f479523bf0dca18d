"""One conversation as the applications, the wire, the taps and each probe would tell it, made by hand: all of it is true.

What lives here: the packets of a request and its reply, and what follows from them. What does not: any expectation. A test
changes one number of a probe (`changed`), and asks which quantities the judge then calls wrong (`wrong`).
"""

import struct
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from lab import probes
from lab.linux.tcp_counters import Sent
from lab.network.frame_log import FRAME, HEAD_BYTES, WireLog
from lab.network.taps import TAPPED, TapLog
from lab.observation import Observed
from lab.packet import ACK, FIN, PSH, RST, SYN, TCP
from lab.probes.analyse.measure import Kind
from lab.probes.flows.measure import Direction
from lab.probes.layers.stages import At
from lab.recording.recording import Recording
from lab.tcp import address_bytes
from lab.timeline import Call, Connection, Timeline
from lab.truth.taps import TapTruth
from lab.truth.wire import WireTruth
from lab.verdict import Check
from support.made import analyse, duration, layers, rtt, states
from support.made.states import packed
from support.made.timelines import END, FLOW, connection

CLIENT, SERVER = 1, 2
PID_OF_CLIENT, PID_OF_SERVER = 71, 72
AT_CLIENT, AT_SERVER = 2, 3
DEVICES = {AT_CLIENT: ("client", CLIENT), AT_SERVER: ("server", SERVER)}
HEADERS = 54
SIZE = 300
TICKS = [np.arange(0, END, 100), np.arange(50, END, 100)]

CLIENT_CALLS = [Call("send", 200, 210, SIZE), Call("recv", 220, 400, SIZE), Call("close", 500, 510)]
SERVER_CALLS = [
    Call("recv", 140, 250, SIZE),
    Call("send", 300, 320, SIZE),
    Call("recv", 330, 600, 0),
    Call("close", 700, 710),
]


class Packet(NamedTuple):
    """A segment, and when it passed TC at its sender and at its receiver."""

    sender: str
    flags: int
    seq: int
    ack: int
    payload: int
    left_ns: int
    came_ns: int

    @property
    def by_client(self):
        """Whether the client sent it."""
        return self.sender == "client"

    @property
    def flow(self):
        """The flow with the sender first."""
        return FLOW if self.by_client else FLOW.reversed()

    @property
    def places(self):
        """Interfaces of the sender and of the receiver."""
        return (AT_CLIENT, AT_SERVER) if self.by_client else (AT_SERVER, AT_CLIENT)

    @property
    def ends(self):
        """Columns of an event."""
        return {
            "saddr": packed(self.flow.laddr), "daddr": packed(self.flow.raddr),
            "sport": self.flow.lport, "dport": self.flow.rport,
        }  # fmt: skip


PACKETS = [
    Packet("client", SYN, 999, 0, 0, 10, 30),
    Packet("server", SYN | ACK, 4999, 1000, 0, 40, 60),
    Packet("client", ACK, 1000, 5000, 0, 70, 90),
    Packet("client", PSH | ACK, 1000, 5000, SIZE, 205, 225),
    Packet("server", ACK, 5000, 1300, 0, 230, 245),
    Packet("server", PSH | ACK, 5000, 1300, SIZE, 310, 330),
    Packet("client", ACK, 1300, 5300, 0, 335, 355),
    Packet("client", FIN | ACK, 1300, 5300, 0, 505, 525),
    Packet("server", ACK, 5300, 1301, 0, 530, 545),
    Packet("server", FIN | ACK, 5300, 1301, 0, 705, 725),
    Packet("client", ACK, 1301, 5301, 0, 730, 745),
]


def _again(packet: Packet) -> Packet:
    return packet._replace(left_ns=packet.left_ns + 20, came_ns=packet.came_ns + 20)


AGAIN = [again for packet in PACKETS for again in (packet, *([_again(packet)] if packet.payload else []))]
"""The same with the request and the reply sent twice."""

SYN_ACK_AGAIN = [*PACKETS[:2], PACKETS[1]._replace(left_ns=45, came_ns=65), *PACKETS[2:]]
"""The same with the SYN-ACK sent twice."""

WIRE, TAPS = {"wire": True}, {"taps": True}
"""What else can be known (`observed`)."""


def whatever_is_known(test):
    """Run a test with `packets` that were sent once and again, and with each `known` beside the applications."""
    known = pytest.mark.parametrize("known", [{}, WIRE, TAPS, WIRE | TAPS])
    return known(pytest.mark.parametrize("packets", [PACKETS, AGAIN])(test))


def _head(packet: Packet) -> np.ndarray:
    """Return the beginning of the frame: Ethernet, IPv4 and TCP without options."""
    source, destination = (address_bytes(it)[-4:] for it in (packet.flow.laddr, packet.flow.raddr))
    data = bytes(12) + b"\x08\x00"
    data += struct.pack(">BxHxxxxBBxx", 0x45, 40 + packet.payload, 64, TCP) + source + destination
    ports = (packet.flow.lport, packet.flow.rport)
    data += struct.pack(">HHIIBBxxxxxx", *ports, packet.seq, packet.ack, 0x50, packet.flags)
    return np.frombuffer(data.ljust(HEAD_BYTES, b"\0"), np.uint8)


def _wire(packets: list[Packet]) -> WireTruth:
    """Return the log of a wire that each packet reaches right after it left, and leaves right before it comes."""
    frames = np.zeros(len(packets), FRAME)
    for frame, packet in zip(frames, packets, strict=True):
        frame["arrived_low_ns"], frame["arrived_high_ns"] = packet.left_ns + 1, packet.left_ns + 3
        frame["sent_low_ns"], frame["sent_high_ns"] = packet.came_ns - 6, packet.came_ns - 4
        frame["length"], frame["head"] = HEADERS + packet.payload, _head(packet)
    return WireTruth(WireLog(frames))


def _taps(packets: list[Packet]) -> TapTruth:
    """Return the log of taps that see a packet right after TC at its sender, and right before XDP at its receiver."""
    frames = np.zeros(2 * len(packets), TAPPED)
    for number, packet in enumerate(packets):
        for outgoing, frame in zip((1, 0), frames[2 * number :], strict=False):
            time_ns = packet.left_ns + 1 if outgoing else packet.came_ns - 3
            frame["low_ns"], frame["high_ns"] = time_ns, time_ns + 2
            frame["tap"] = packet.by_client is not bool(outgoing)
            frame["outgoing"], frame["early"] = outgoing, 1
            frame["length"], frame["head"] = HEADERS + packet.payload, _head(packet)
    return TapTruth(TapLog([(CLIENT, AT_CLIENT), (SERVER, AT_SERVER)], frames, TICKS), 0)


_PACKET = np.dtype(
    [
        ("time_ns", "u8"), ("saddr", "u1", 16), ("daddr", "u1", 16), ("seq", "u4"), ("ack", "u4"), ("ifindex", "u4"),
        ("payload_length", "u4"), ("sport", "u2"), ("dport", "u2"), ("problem", "u2"), ("protocol", "u1"), ("flags", "u1"),
    ]
)  # fmt: skip
_COUNTED = ("packets", "bytes", "payload_bytes", "syns", "fins", "rsts")
_TOTAL = np.dtype(
    [
        ("ifindex", "u4"), ("saddr", "u1", 16), ("daddr", "u1", 16), ("sport", "u2"), ("dport", "u2"), ("direction", "u2"),
        ("version", "u1"), ("protocol", "u1"), *((name, "u8") for name in (*_COUNTED, "first_ns", "last_ns")),
    ]
)  # fmt: skip
_SENT_AGAIN = np.dtype(
    [
        ("time_ns", "u8"), ("laddr", "u1", 16), ("raddr", "u1", 16), ("netns", "u4"), ("seq", "u4"), ("length", "u4"),
        ("segments", "u4"), ("error", "u4"), ("lport", "u2"), ("rport", "u2"), ("state", "u1"), ("flags", "u1"),
    ]
)  # fmt: skip
_DROP = np.dtype(
    [
        ("time_ns", "u8"), ("saddr", "u1", 16), ("daddr", "u1", 16), ("netns", "u4"), ("seq", "u4"), ("length", "u4"),
        ("header", "u4"), ("reason", "u4"), ("sport", "u2"), ("dport", "u2"), ("flags", "u1"),
    ]
)  # fmt: skip


def _rows(kind: np.dtype, *rows: dict) -> np.ndarray:
    made = np.zeros(len(rows), kind)
    for row, fields in zip(made, rows, strict=True):
        for name, value in fields.items():
            row[name] = value
    return made


def arrived(packet: Packet, **fields) -> dict:
    """Return an event of `packets`: XDP runs between the tap and TC."""
    known = {
        "time_ns": packet.came_ns, "ifindex": packet.places[1], "protocol": TCP, "flags": packet.flags, "seq": packet.seq,
        "ack": packet.ack, "payload_length": packet.payload,
    }  # fmt: skip
    return packet.ends | known | fields


def _counted(packets: list[Packet]) -> np.ndarray:
    rows = []
    for by_client in (True, False):
        mine = [packet for packet in packets if packet.by_client is by_client]
        for place, direction, times in (
            (0, Direction.EGRESS, [it.left_ns for it in mine]),
            (1, Direction.INGRESS, [it.came_ns for it in mine]),
        ):
            row = {"ifindex": mine[0].places[place], "direction": direction, "version": 4, "protocol": TCP}
            row |= {"packets": len(mine), "first_ns": min(times), "last_ns": max(times)}
            row |= {"bytes": sum(HEADERS + it.payload for it in mine), "payload_bytes": sum(it.payload for it in mine)}
            for name, flag in (("syns", SYN), ("fins", FIN), ("rsts", RST)):
                row[name] = sum(bool(it.flags & flag) for it in mine)
            rows.append(mine[0].ends | row)
    return _rows(_TOTAL, *rows)


def _passed(packets: list[Packet]) -> np.ndarray:
    rows = []
    for packet in (it for it in packets if it.flags & (SYN | FIN | RST)):
        for ifindex, ingress, time_ns in zip(packet.places, (0, 1), (packet.left_ns, packet.came_ns), strict=True):
            known = {
                "time_ns": time_ns, "seq": packet.seq, "ack": packet.ack, "payload_length": packet.payload,
                "ifindex": ifindex, "flags": packet.flags, "ingress": ingress,
            }  # fmt: skip
            rows.append(packet.ends | known)
    return _rows(duration.SEGMENT, *sorted(rows, key=lambda row: row["time_ns"]))


def _sent_again(packets: list[Packet]) -> np.ndarray:
    rows, known = [], set()
    for packet in packets:
        if not packet.payload:
            continue
        if (packet.by_client, packet.seq) in known:
            ends = {"laddr": packet.ends["saddr"], "raddr": packet.ends["daddr"], "lport": packet.flow.lport}
            about = {"rport": packet.flow.rport, "netns": CLIENT if packet.by_client else SERVER, "seq": packet.seq}
            about |= {"time_ns": packet.left_ns + 5, "length": packet.payload, "segments": 1, "flags": packet.flags}
            rows.append(ends | about)
        known.add((packet.by_client, packet.seq))
    return _rows(_SENT_AGAIN, *rows)


def _changes() -> np.ndarray:
    mine = {"netns": CLIENT}
    owned = mine | {"tgid": PID_OF_CLIENT, "comm": "client"}
    its = {"netns": SERVER, "flow": FLOW.reversed(), "skaddr": 0xB0}
    held = its | {"tgid": PID_OF_SERVER, "comm": "server"}
    rows = [
        states.change(5, "CLOSE -> SYN_SENT", FLOW, lport=0, **owned),
        states.change(62, "SYN_SENT -> ESTABLISHED", FLOW, **mine),
        states.change(92, "LISTEN -> SYN_RECV", **its),
        states.change(93, "SYN_RECV -> ESTABLISHED", handshake_rtt_us=1, **its),
        states.change(502, "ESTABLISHED -> FIN_WAIT1", FLOW, **owned, closed=1),
        states.change(528, "ESTABLISHED -> CLOSE_WAIT", **its),
        states.change(547, "FIN_WAIT1 -> FIN_WAIT2", FLOW, **mine),
        states.change(702, "CLOSE_WAIT -> LAST_ACK", **held, closed=1),
        states.change(727, "FIN_WAIT2 -> TIME_WAIT", FLOW, skaddr=0, **mine),
        states.change(747, "LAST_ACK -> CLOSE", **its),
    ]
    return states.changes(*rows)


def dropped(packet: Packet | None = None, netns: int = 0, reason: int = 0, **fields) -> np.ndarray:
    """Return an event of `drops`, none without a packet."""
    if packet is None:
        return np.zeros(0, _DROP)
    known = {"netns": netns, "reason": reason, "seq": packet.seq, "flags": packet.flags, "header": 40}
    return _rows(_DROP, packet.ends | known | {"length": 40 + packet.payload} | fields)


def _points(packets: list[Packet]) -> np.ndarray:
    """Return the points of the probe `layers`: those of each frame, of both writes and of both reads."""
    rows = []
    for packet in packets:
        places = {At.TC_OUT: packet.left_ns, At.DEVICE_OUT: packet.left_ns + 1, At.DEVICE_IN: packet.came_ns - 4}
        places |= {At.TC_IN: packet.came_ns, At.TCP_IN: packet.came_ns + 1}
        for at, time_ns in places.items():
            known = {"flags": packet.flags, "tsval": packet.left_ns, "netns": CLIENT if packet.by_client else SERVER}
            if at >= At.DEVICE_IN:
                known["netns"] = SERVER if packet.by_client else CLIENT
            rows.append(layers.point(time_ns, at, packet.seq, packet.payload, packet.flow, **known))
    for flow, seq, netns, (began_ns, wrote_ns), ready_ns, (asked_ns, read_ns) in (
        (FLOW, 1000, (CLIENT, SERVER), (201, 209), 227, (145, 240)),
        (FLOW.reversed(), 5000, (SERVER, CLIENT), (301, 315), 333, (225, 390)),
    ):
        rows += [
            layers.point(wrote_ns, At.WRITE, seq, SIZE, flow, enter_ns=began_ns, netns=netns[0]),
            layers.point(ready_ns, At.READY, seq + SIZE, 0, flow, netns=netns[1]),
            layers.point(read_ns, At.READ, seq, SIZE, flow, enter_ns=asked_ns, awake_ns=ready_ns + 5, netns=netns[1]),
        ]
    return layers.points(*rows)


def _steps() -> np.ndarray:
    """Return the steps of the probe `analyse`; the last one of the client is that of a minisock, which it does not see."""
    rows = []
    for owner, name, flow, netns, skaddr in (
        (PID_OF_CLIENT, "client", FLOW, CLIENT, 0xA0),
        (PID_OF_SERVER, "server", FLOW.reversed(), SERVER, 0xB0),
    ):
        here = {"flow": flow, "skaddr": skaddr, "netns": netns}
        mine = here | {"tgid": owner, "tid": owner, "comm": name}

        def call(kind, enter_ns, time_ns, work=(), *, mine=mine, **fields):
            """Return the entry and the return of a system call, and the work of TCP for it."""
            begun = "CLOSE" if kind == Kind.CONNECT else "ESTABLISHED"
            rows.append(analyse.step(enter_ns, kind, state=begun, **mine))
            if work:
                done = {"enter_ns": work[0], "state": "ESTABLISHED"}
                rows.append(
                    analyse.step(work[1], Kind.SENT if kind == Kind.SEND else Kind.RECEIVED, **mine, **done, **fields)
                )
            rows.append(
                analyse.step(time_ns, kind, enter_ns=enter_ns, returns=1, state="ESTABLISHED", **mine, **fields)
            )

        def came(time_ns, state, seq, flags, length=0, *, here=here):
            """Return a segment that TCP receives and then processes."""
            known = {"state": state, "seq": seq, "length": length, "flags": flags}
            rows.append(analyse.step(time_ns, Kind.ARRIVED, **here, **known))
            rows.append(analyse.step(time_ns + 1, Kind.PROCESSED, enter_ns=time_ns, **here, **known))

        def changes(time_ns, both, *, here=here, **fields):
            rows.append(analyse.change(time_ns, both, **here, **fields))

        if name == "client":
            call(Kind.CONNECT, 2, 98)
            changes(5, "CLOSE -> SYN_SENT")
            came(62, "SYN_SENT", 4999, SYN | ACK)
            changes(64, "SYN_SENT -> ESTABLISHED")
            call(Kind.SEND, 201, 209, (203, 208), result=SIZE)
            came(247, "ESTABLISHED", 5000, ACK)
            call(Kind.RECEIVE, 222, 395, (225, 390), result=SIZE)
            came(332, "ESTABLISHED", 5000, PSH | ACK, SIZE)
            call(Kind.CLOSE, 501, 509)
            changes(503, "ESTABLISHED -> FIN_WAIT1")
            came(547, "FIN_WAIT1", 5300, ACK)
            changes(549, "FIN_WAIT1 -> FIN_WAIT2")
            rows.append(analyse.step(551, Kind.DESTROYED, state="FIN_WAIT2", **here))
        else:
            changes(92, "LISTEN -> SYN_RECV")
            changes(93, "SYN_RECV -> ESTABLISHED", handshake_us=1)
            call(Kind.ACCEPT, 95, 125)
            call(Kind.RECEIVE, 142, 248, (143, 245), result=SIZE)
            came(227, "ESTABLISHED", 1000, PSH | ACK, SIZE)
            call(Kind.SEND, 302, 318, (303, 312), result=SIZE)
            call(Kind.RECEIVE, 332, 590, (333, 580), result=0)
            came(357, "ESTABLISHED", 1300, ACK)
            came(527, "ESTABLISHED", 1300, FIN | ACK)
            changes(529, "ESTABLISHED -> CLOSE_WAIT")
            call(Kind.CLOSE, 701, 708)
            changes(703, "CLOSE_WAIT -> LAST_ACK")
            came(747, "LAST_ACK", 1301, ACK)
            changes(749, "LAST_ACK -> CLOSE")
            rows.append(analyse.step(751, Kind.DESTROYED, state="CLOSE", **here))
    return analyse.steps(*rows)


def _totals_of_rtt() -> np.ndarray:
    """Each sample and each average of so short a conversation is 0 us."""
    return np.concatenate(
        [
            rtt.of_socket(flow, netns, values, kind)
            for flow, netns in ((FLOW, CLIENT), (FLOW.reversed(), SERVER))
            for kind, values in ((rtt.Kind.SRTT, [0, 0, 0]), (rtt.Kind.RTT, [0, 0]))
        ]
    )


def conversation() -> Connection:
    """Return both applications of the conversation."""
    both = connection(CLIENT_CALLS, SERVER_CALLS)
    both.client.pid, both.client.comm = PID_OF_CLIENT, "client"
    both.server.pid, both.server.comm = PID_OF_SERVER, "server"
    return both


def observed(packets: list[Packet] = PACKETS, *, wire: bool = False, taps: bool = False) -> Observed:
    """Return the conversation, and what the probes tell of it; with the wire's log and the taps, or without."""
    again = len(packets) - len(PACKETS)
    counters = [Sent(sum(it.by_client is mine for it in PACKETS), again // 2) for mine in (True, False)]
    events = {
        "packets": _rows(_PACKET, *(arrived(packet) for packet in packets)),
        "duration": _passed(packets),
        "retransmits": _sent_again(packets),
        "states": _changes(),
        "drops": dropped(),
        "layers": _points(packets),
        "analyse": _steps(),
    }
    totals = {"flows": _counted(packets), "rtt": _totals_of_rtt()}
    places = {name: ["here"] for name in (*events, *totals)}
    places |= {"packets": ["generic XDP"], "analyse": ["fentry:tcp_recvmsg"]}
    return Observed(
        (CLIENT, SERVER),
        Recording(events, attach_points=places, totals=totals, devices=DEVICES),
        [conversation()],
        END,
        sent=tuple(counters),
        wire=_wire(packets) if wire else None,
        taps=_taps(packets) if taps else None,
    )


def refused() -> Observed:
    """Return a connection that was refused: a SYN, and a RST back."""
    packets = [Packet("client", SYN, 999, 0, 0, 10, 30), Packet("server", RST | ACK, 0, 1000, 0, 40, 60)]
    found = observed(packets)
    found.sent = (Sent(1), Sent(1, resets=1))
    calls = [Call("connect", 0, 100, 0, "ECONNREFUSED"), Call("close", 120, 130)]
    timeline = Timeline("client", FLOW, pid=PID_OF_CLIENT, comm="client", calls=calls)
    found.connections = [Connection(timeline, None)]
    found.recording.events["states"] = states.changes(
        states.change(5, "CLOSE -> SYN_SENT", FLOW, netns=CLIENT, tgid=PID_OF_CLIENT, comm="client"),
        states.change(62, "SYN_SENT -> CLOSE", FLOW, netns=CLIENT),
    )
    return found


def changed(whole: Observed, probe: str, number: int, **fields) -> Observed:
    """Return the same with other fields of one event or total of a probe."""
    kind = "totals" if probe in whole.recording.totals else "events"
    rows = getattr(whole.recording, kind)[probe].copy()
    for name, value in fields.items():
        rows[name][number] = value
    return _with_rows(whole, kind, probe, rows)


def without(whole: Observed, probe: str, number: int) -> Observed:
    """Return the same without one event or total of a probe."""
    kind = "totals" if probe in whole.recording.totals else "events"
    return _with_rows(whole, kind, probe, np.delete(getattr(whole.recording, kind)[probe], number))


def with_events(whole: Observed, probe: str, rows: np.ndarray) -> Observed:
    """Return the same with these events of a probe, which are copied."""
    return _with_rows(whole, "events", probe, rows.copy())


def _with_rows(whole: Observed, kind: str, probe: str, rows: np.ndarray) -> Observed:
    recording = replace(whole.recording, **{kind: getattr(whole.recording, kind) | {probe: rows}})
    return replace(whole, recording=recording)


def checks(whole: Observed, probe: str) -> list[Check]:
    """Return every check of a probe's judge."""
    return probes.judge(probe, whole, "made")


def wrong(whole: Observed, probe: str) -> set[str]:
    """Return the quantities that the judge of a probe calls wrong."""
    return {check.quantity for check in checks(whole, probe) if not check.passed}


def intervals(whole: Observed, probe: str) -> dict[tuple[str, str], tuple]:
    """Return the interval of each check, by whose it is and its quantity. It shows what the judge knows."""
    return {(check.subject, check.quantity): (check.low, check.high) for check in checks(whole, probe)}
