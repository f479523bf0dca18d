"""What the probe `rtt` has added up, as its map is read: made by hand."""

import numpy as np

from lab.log2_histogram import SLOTS, slot_of
from lab.probes.rtt.measure import Kind
from lab.tcp import Flow
from support.made.states import packed

TOTAL = np.dtype(
    [
        ("netns", "u4"),
        ("laddr", "u1", 16),
        ("raddr", "u1", 16),
        ("lport", "u2"),
        ("rport", "u2"),
        ("cpu", "u2"),
        ("again", "u1"),
        ("kind", "u1"),
        ("count", "u8"),
        ("sum_us", "u8"),
        ("unclear", "u8"),
        ("distorted", "u8"),
        ("min_us", "u4"),
        ("max_us", "u4"),
        ("slots", "u8", SLOTS),
    ]
)
PEERS = [b"\0" * 10 + b"\xff\xff" + bytes([192, 0, 2, 1]), bytes(15) + b"\1", b" \1\r\xb8" + bytes(11) + b"\1"]


def total(values, peer=0, cpu=0, kind=Kind.RTT, unclear=0):
    """Return what one processor has added up for one peer."""
    row = np.zeros(1, TOTAL)
    row["raddr"] = np.frombuffer(PEERS[peer], "u1")
    row["cpu"], row["kind"], row["unclear"] = cpu, kind, unclear
    row["count"], row["sum_us"] = len(values), sum(values)
    if values:
        row["min_us"], row["max_us"] = min(values), max(values)
    for value in values:
        row["slots"][0, slot_of(value)] += 1
    return row


def of_socket(flow: Flow, netns, values, kind=Kind.RTT):
    """Return what has been added up for one socket."""
    row = total(values, kind=kind)
    row["netns"], row["lport"], row["rport"] = netns, flow.lport, flow.rport
    row["laddr"], row["raddr"] = (packed(address) for address in (flow.laddr, flow.raddr))
    return row
