"""The judge of the probe `packets`: which segments arrived at each host, and when."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lab.arrays import UNKNOWN, Events, Rows
from lab.network.segment_parser import first
from lab.observation import Observed
from lab.packet import ACK, FIN, RST, SYN, distinct_bytes, flags_text
from lab.probes.packets.measure import arrival_of_byte, by_flow, packets_of
from lab.truth.directions import OneDirection, both_directions, connections_in_time
from lab.truth.requests import with_byte
from lab.truth.taps import Seen, by
from lab.verdict import Bracket, Check, Judge


def checks(observed: Observed, scenario: str) -> Iterator[Check]:
    """Yield the checks of the packets that both hosts received against the timelines of both applications.

    With the log of a wire, each packet that left the wire must arrive once, and not before it left. Without a log, a
    kernel may answer a segment after the end with a RST that no application has sent; the host's counter of sent RSTs
    allows for it.
    """
    judge = observed.judge(scenario, "packets")
    frames = observed.recording.events["packets"]
    flows = by_flow(frames)
    at_client, at_server = observed.ifindexes
    explained = 0
    for connection, since_ns, until_ns in connections_in_time(observed.connections):
        to_server, to_client = both_directions(connection, observed.end_ns)
        arrived = []
        streams = ((to_server, at_server, SYN), (to_client, at_client, SYN | ACK))
        for (direction, ifindex, opening), sent in zip(streams, observed.sent, strict=True):
            rows = np.concatenate([frames[:0], *packets_of(flows, ifindex, direction.flow)])
            rows = rows[(rows["time_ns"] >= since_ns) & (rows["time_ns"] < until_ns)]
            # Native XDP comes before the stamps of a tap, whichever they are.
            receiver = observed.seen_at(connection, ifindex) if "generic" in judge.attach_point else None
            left_wire = None
            if observed.wire:
                left_wire = observed.wire.stream(direction.flow, since_ns=since_ns, until_ns=until_ns).arrived
            yield from _judge_journey(judge, direction, rows, opening, receiver, left_wire)
            if left_wire is not None:
                yield from _judge_arrivals(judge, str(direction.flow), rows, left_wire)
            else:
                # A host may answer a segment that came after the end of the connection.
                late = [",".join(filter(None, (end, "RST"))) for end in direction.ends if end != "RST"]
                late = late if sent.resets else []
                yield judge.one_of(
                    str(direction.flow), "ends with", direction.ends + late, ",".join(_ends(rows["flags"]))
                )
            arrived.append(rows)
        explained += sum(len(rows) for rows in arrived)
        if all(len(rows) for rows in arrived):
            # The answer arrives after the SYN, and both within connect().
            took_ns = int(arrived[1]["time_ns"][0]) - int(arrived[0]["time_ns"][0])
            connect = connection.client.opening
            at_most = Bracket.early(0, connect.exit_ns - connect.enter_ns)
            yield judge.duration(str(to_server.flow), "SYN to answer", at_most, took_ns)
    if not observed.wire:
        for end, ifindex, sent in zip(("server", "client"), (at_server, at_client), observed.sent, strict=True):
            resets = int(np.count_nonzero(frames["flags"][frames["ifindex"] == ifindex] & RST))
            yield judge.count(f"to the {end}", "resets", Bracket.late(0, sent.resets), resets)
    unmatched = len(frames) - explained
    yield judge.count("all connections", "packets of no connection", Bracket.exactly(0), unmatched)


def _judge_journey(
    judge: Judge,
    direction: OneDirection,
    rows: Events,
    opening: int,
    receiver: Seen | None,
    left_wire: "Rows | None",
) -> Iterator[Check]:
    """Yield the checks of the segments of one direction that arrived: after they left the wire, where it has a log.

    `receiver`: what a tap at the interface saw.
    """
    came = receiver.came[receiver.came["flags"] & RST == 0] if receiver else np.zeros(0, rows.dtype)

    def at(known: Bracket, found: np.void | None, carried: "Rows | None") -> Bracket:
        """Return when the first of some segments passed XDP, of which the wire carried `carried`.

        The tap's stamp is from before XDP if it is an early one.
        """
        if carried is not None and len(carried):
            known = Bracket.early(max(known.low, int(carried["sent_low_ns"].min())), known.high)
        if receiver is None or found is None:
            return known
        tapped = receiver.coming(found) if found["early"] else Bracket.late(0, by(found))
        return Bracket.early(*known.common(tapped))

    subject, name = str(direction.flow), flags_text(opening).replace(",", "-")
    flags = rows["flags"]
    opened = rows[(flags & (SYN | ACK | RST)) == opening]
    expected = int(direction.opening is not None)
    yield judge.count(subject, f"{name} numbers", Bracket.exactly(expected), len(np.unique(opened["seq"])))
    if direction.opening and len(opened):
        opens = None if left_wire is None else left_wire[left_wire["flags"] & (SYN | ACK | RST) == opening]
        found = first(came, came["flags"] & (SYN | ACK) == opening) if receiver else None
        opened_at = at(direction.opening, found, opens)
        yield judge.duration(subject, f"{name} arrives at", opened_at, int(opened["time_ns"][0]))
    stream, came = _from_syn(rows[(flags & RST) == 0]), _from_syn(came)
    yield judge.count(
        subject, "payload bytes", direction.payload, distinct_bytes(stream["seq"], stream["payload_length"])
    )
    for what, bracket, byte in (("first", direction.first_data, 0), ("last", direction.last_data, direction.sent - 1)):
        if bracket:
            index = arrival_of_byte(stream["seq"], stream["payload_length"], byte)
            arrived_ns = UNKNOWN if index is None else int(stream["time_ns"][index])
            tapped = arrival_of_byte(came["seq"], came["payload"], byte) if receiver else None
            carried = None if left_wire is None else with_byte(left_wire, byte)
            arrives = at(bracket, None if tapped is None else came[tapped], carried)
            yield judge.duration(subject, f"{what} data arrives at", arrives, arrived_ns)
    # Any other FIN or RST answers a stray segment and is not part of the connection.
    for end in set(_ends(flags)) & set(direction.ends):
        flag = {"FIN": FIN, "RST": RST}[end]
        ended_ns = int(rows["time_ns"][flags & flag > 0][0])
        ending = first(receiver.came, receiver.came["flags"] & flag > 0) if receiver else None
        ends_at = at(direction.end, ending, None if left_wire is None else left_wire[left_wire["flags"] & flag > 0])
        yield judge.duration(subject, f"{end} arrives at", ends_at, ended_ns)


def _from_syn(rows: Events) -> Events:
    """Return segments with the SYN first: after data in the SYN, a reply can arrive before the SYN-ACK (RFC 7413)."""
    return rows[np.argsort(rows["flags"] & SYN == 0, kind="stable")]


def _ends(flags: npt.NDArray[np.uint8]) -> list[str]:
    """Return the names of the ends (`FIN`, `RST`) that these flags contain."""
    return [end for bit, end in ((FIN, "FIN"), (RST, "RST")) if (flags & bit).any()]


def _judge_arrivals(judge: Judge, subject: str, rows: Events, left_wire: Rows) -> Iterator[Check]:
    """Yield the checks of each packet against its record in the wire's log.

    Identical packets are paired in order: the first to leave the wire is the first to arrive.
    """
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
