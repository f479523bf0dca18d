"""Packets with a port, each with the time at which it reached the interface.

src_ip, src_port    as the packet has them, and so dst_ip and dst_port; - for what it does not have
timestamp(us)       when the frame came to XDP, before the network stack: microseconds since boot on the clock of all probes
                    (CLOCK_MONOTONIC), with --wall microseconds since 1970 (CLOCK_REALTIME)

--json and --csv have more:

time_ns, clock      the same in nanoseconds, and the clock's name
ethertype           the protocol behind the Ethernet header and its VLAN tags
vlan, inner_vlan    ids of the tags; a tag that the device has taken off and carries beside the frame cannot be seen by XDP
flags, seq, ack     as in TCP's header
payload_length      bytes behind the TCP or UDP header, without padding
frame_length        bytes from the Ethernet header on, as XDP has them: frames of a sender on the same machine, and frames that the
                    device has joined, are up to 64 KB and more long and have not been cut into segments
problem             why a packet has no ports

XDP sees what the interface receives and nothing that it sends. A later fragment has no ports, and neither has what is encrypted or
cut off: such packets are counted, which is told at the end, and --all shows them, with the reason.

Native XDP (--mode) runs in the driver, generic XDP behind it; auto is generic on a veth and on loopback, elsewhere native where the
driver has it. Native XDP on a veth has its peer cut every frame to the MTU, which costs half of TCP's throughput.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lab import live
from lab.arrivals import Journey, journeys, turns
from lab.capture import Capture
from lab.carried import Segments
from lab.clock import WALL, wall_offset_ns
from lab.demo.conversation import PORT
from lab.device import MODES, Device
from lab.errors import LabError
from lab.measure import UNKNOWN
from lab.packet import (
    ACK,
    FIN,
    PROBLEMS,
    RST,
    SYN,
    TCP,
    arrival_of_byte,
    by_flow,
    distinct_bytes,
    flags_text,
    packets_of,
    protocol_text,
)
from lab.program import Program
from lab.recording import CLOCK
from lab.ring import Events
from lab.tcp import address_text
from lab.units import port
from lab.verdict import Bracket, Check, Judge

if TYPE_CHECKING:
    from lab.observed import Observed  # brings the topology, which a live tool does not need

EXAMPLES = """\
examples:
  lab packets                          packets from and to port 9999 on the only interface
  lab packets -i lo --port 80 --json   those of port 80 on loopback, as JSON Lines
  lab packets --all --pcap all.pcapng  everything that comes in, also to a file for tshark
"""

_SNAPLEN = 256  # bytes of each frame that go into the capture
_NO_IP = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-p", "--port", type=port, default=PORT, help="source or destination port (%(default)s)")
    what.add_argument("-a", "--all", action="store_true", help="every frame, also those without ports")
    parser.add_argument("--mode", choices=MODES, default="auto", help="how XDP is attached (%(default)s)")
    parser.add_argument("--wall", action="store_true", help="wall-clock time: microseconds since 1970")
    parser.add_argument(
        "--pcap",
        type=Path,
        metavar="FILE",
        help=f"also write the frames, up to {_SNAPLEN} bytes of each, as pcapng with wall-clock time",
    )
    live.add_device_arguments(parser)
    live.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print packets until Ctrl-C, or for `--seconds`."""
    device = Device.find(args.interface, args.netns, args.mode)
    defines = [f"PORT={0 if args.all else args.port}"]
    output = live.Output(args, "", line)
    with ExitStack() as open_files:
        capture = open_files.enter_context(Capture(args.pcap, device.ifname, _SNAPLEN)) if args.pcap else None
        if capture:
            defines.append(f"SNAPLEN={_SNAPLEN}")
        program = Program.load("packets", tuple(defines))
        program.take_totals()
        try:
            with live.events_by_time(program, args.seconds, [device]) as batches:
                output.start()
                for batch in batches:
                    offset_ns = wall_offset_ns()
                    if capture and not _captured(capture, batch, offset_ns, output):
                        capture = None
                    for row in batch:
                        output.row(as_dict(row, offset_ns if args.wall else None))
        finally:
            output.note(unreadable(program.take_totals()))
    return 0


def _captured(capture: Capture, batch: Events, offset_ns: int, output: live.Output) -> bool:
    """Write frames to the capture; False when there is no room for more, which must not end the printing."""
    try:
        for row in batch:
            length = int(row["frame_length"])
            capture.frame(int(row["time_ns"]) + offset_ns, row["bytes"].tobytes()[:length], length)
    except LabError as error:
        output.note(f"{error}; what follows is printed only")
        return False
    return True


def unreadable(totals: Events) -> str:
    """Say how many packets may have had the port, and why nobody can tell."""
    reasons = ", ".join(f"{row['frames']} {PROBLEMS[row['problem']]}" for row in np.sort(totals, order="problem"))
    return (
        f"packets whose ports cannot be read, and which are not shown: {reasons} (--all shows them)" if reasons else ""
    )


def as_dict(row: np.void, offset_ns: int | None = None) -> dict[str, object]:
    """One row under the names that `--json` and `--csv` use; None is what the packet does not have.

    With `offset_ns` the time is one of the wall clock.
    """
    version, protocol, problem = int(row["version"]), int(row["protocol"]), int(row["problem"])
    is_ip, has_ports = version != _NO_IP, problem == 0
    is_tcp = has_ports and protocol == TCP
    return {
        "time_ns": int(row["time_ns"]) + (offset_ns or 0),
        "clock": CLOCK if offset_ns is None else WALL,
        "ifindex": int(row["ifindex"]),
        "saddr": address_text(row["saddr"].tobytes()) if is_ip else None,
        "sport": int(row["sport"]) if has_ports else None,
        "daddr": address_text(row["daddr"].tobytes()) if is_ip else None,
        "dport": int(row["dport"]) if has_ports else None,
        "ethertype": f"0x{int(row['ethertype']):04x}",
        "vlan": int(row["vlan"]) or None,
        "inner_vlan": int(row["inner_vlan"]) or None,
        "version": version or None,
        "protocol": protocol_text(protocol) if is_ip else None,
        "flags": flags_text(int(row["flags"])) if is_tcp else None,
        "seq": int(row["seq"]) if is_tcp else None,
        "ack": int(row["ack"]) if is_tcp else None,
        "payload_length": int(row["payload_length"]) if has_ports else None,
        "frame_length": int(row["frame_length"]),
        "fragment": bool(row["fragment"]),
        "problem": PROBLEMS[problem] or None,
    }


def line(row: dict[str, object]) -> str:
    """One row of the table."""
    names = ("saddr", "sport", "daddr", "dport")
    saddr, sport, daddr, dport = ("-" if row[name] is None else row[name] for name in names)
    time_ns = row["time_ns"]
    if not isinstance(time_ns, int):
        raise TypeError("a time is an integer of nanoseconds")
    why = f"  ({row['problem']})" if row["problem"] else ""
    return (
        f"Packet Data - src_ip: {saddr},  src_port: {sport}, dst_ip: {daddr},  dst_port: {dport}, "
        f"timestamp(us): {time_ns // 1000}{why}"
    )


def table(observed: "Observed") -> Iterator[str]:
    """Yield what the live tool would have printed for both hosts."""
    return (line(as_dict(row)) for row in observed.recording.events["packets"])


def judge(observed: "Observed", scenario: str) -> Iterator[Check]:
    """Compare the packets that both hosts have received with what both applications know; yields every check.

    Where the wire keeps a log, each packet that left it has arrived, once, and not before. Elsewhere a kernel may have answered what
    came after the end with a RST, which no application knows of: then it has counted one.
    """
    judge = observed.judge(scenario, "packets")
    frames = observed.recording.events["packets"]
    flows = by_flow(frames)
    ifindexes = {inode: ifindex for ifindex, (_, inode) in observed.recording.devices.items()}
    at_client, at_server = (ifindexes[inode] for inode in observed.inodes)
    explained = 0
    for connection, since_ns, until_ns in turns(observed.connections):
        to_server, to_client = journeys(connection, observed.end_ns)
        arrived = []
        ways = ((to_server, at_server, SYN), (to_client, at_client, SYN | ACK))
        for (journey, ifindex, opening), sent in zip(ways, observed.sent, strict=True):
            rows = np.concatenate([frames[:0], *packets_of(flows, ifindex, journey.flow)])
            rows = rows[(rows["time_ns"] >= since_ns) & (rows["time_ns"] < until_ns)]
            yield from _judge_journey(judge, journey, rows, opening)
            if observed.wire:
                way = observed.wire.way(journey.flow, since_ns=since_ns, until_ns=until_ns)
                yield from _judge_arrivals(judge, str(journey.flow), rows, way.arrived)
            else:
                late = ["FIN,RST"] if sent.resets and "FIN" in journey.ends else []
                yield judge.one_of(str(journey.flow), "ends with", journey.ends + late, ",".join(_ends(rows["flags"])))
            arrived.append(rows)
        explained += sum(len(rows) for rows in arrived)
        if all(len(rows) for rows in arrived):
            # The answer's arrival cannot come before that of what it answers.
            took_ns = int(arrived[1]["time_ns"][0]) - int(arrived[0]["time_ns"][0])
            connect = connection.client.find("connect")
            at_most = Bracket(0, connect.exit_ns - connect.enter_ns, 0)
            yield judge.duration(str(to_server.flow), "SYN to answer", at_most, took_ns)
    if not observed.wire:
        for end, ifindex, sent in zip(("server", "client"), (at_server, at_client), observed.sent, strict=True):
            resets = int(np.count_nonzero(frames["flags"][frames["ifindex"] == ifindex] & RST))
            yield judge.count(f"to the {end}", "resets", Bracket(0, sent.resets, sent.resets), resets)
    strangers = len(frames) - explained
    yield judge.count("all connections", "packets of no connection", Bracket(0, 0, 0), strangers)


def _judge_journey(judge: Judge, journey: Journey, rows: Events, opening: int) -> Iterator[Check]:
    """Judge what has arrived of one side's segments."""
    subject, name = str(journey.flow), flags_text(opening).replace(",", "-")
    flags = rows["flags"]
    opened = rows[(flags & (SYN | ACK | RST)) == opening]
    expected = int(journey.opening is not None)
    yield judge.count(subject, f"{name} numbers", Bracket(expected, expected, expected), len(np.unique(opened["seq"])))
    if journey.opening and len(opened):
        yield judge.duration(subject, f"{name} arrives at", journey.opening, int(opened["time_ns"][0]))
    stream = rows[(flags & RST) == 0]
    yield judge.count(
        subject, "payload bytes", journey.payload, distinct_bytes(stream["seq"], stream["payload_length"])
    )
    for what, bracket, byte in (("first", journey.first_data, 0), ("last", journey.last_data, journey.sent - 1)):
        if bracket:
            index = arrival_of_byte(stream["seq"], stream["payload_length"], byte)
            arrived_ns = UNKNOWN if index is None else int(stream["time_ns"][index])
            yield judge.duration(subject, f"{what} data arrives at", bracket, arrived_ns)
    # Other ends than those of the applications are answers to strays, and no part of the connection.
    for end in set(_ends(flags)) & set(journey.ends):
        ended_ns = int(rows["time_ns"][(flags & {"FIN": FIN, "RST": RST}[end]) > 0][0])
        yield judge.duration(subject, f"{end} arrives at", journey.end, ended_ns)


def _ends(flags: npt.NDArray[np.uint8]) -> list[str]:
    """Name the ways to end a direction that are among these flags."""
    return [end for bit, end in ((FIN, "FIN"), (RST, "RST")) if (flags & bit).any()]


def _judge_arrivals(judge: Judge, subject: str, rows: Events, left_wire: Segments) -> Iterator[Check]:
    """Judge each packet by what the wire's log says of it. What cannot be told apart has arrived in the order in which it left."""
    names = ["seq", "ack", "flags", "payload"]
    alike = ["seq", "ack", "flags", "payload_length"]
    yield judge.equal(subject, "packets", len(left_wire), len(rows))
    rows = rows[np.argsort(rows[[*alike, "time_ns"]], order=[*alike, "time_ns"])]
    left_wire = left_wire[np.argsort(left_wire[[*names, "sent_low_ns"]], order=[*names, "sent_low_ns"])]
    if len(rows) != len(left_wire):
        return
    same = [bool((rows[mine] == left_wire[its]).all()) for mine, its in zip(alike, names, strict=True)]
    yield judge.equal(
        subject, "sequence numbers, flags, lengths", "as on the wire", "as on the wire" if all(same) else "other"
    )
    early = int((rows["time_ns"].astype(np.int64) < left_wire["sent_low_ns"]).sum())
    yield judge.equal(subject, "packets that arrive before they leave the wire", 0, early)
