"""Metrics of `lab packets`: received packets and their bytes, by protocol."""

import argparse
from operator import itemgetter
from typing import Any

from lab.live.metrics import Counter, Family, field, fields
from lab.packet import PROBLEMS, protocol_text


def families(_: argparse.Namespace) -> list[Family]:
    """Return the metrics."""
    labels = {
        "protocol": fields(("version", "protocol", "ethertype"), _protocol),
        "problem": field("problem", PROBLEMS.__getitem__),
    }
    return [
        Counter("network_received_packets", "Packets that reached the interface", labels),
        Counter(
            "network_received_bytes",
            "Bytes of the frames that reached the interface",
            labels,
            itemgetter("frame_length"),
        ),
    ]


def _protocol(packet: Any) -> str:
    return protocol_text(int(packet["protocol"])) if packet["version"] else f"0x{int(packet['ethertype']):04x}"
