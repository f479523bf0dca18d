"""Metrics of `lab flows`: packets and bytes by pair of endpoints."""

import argparse
from operator import itemgetter

from lab.errors import LabError
from lab.live.metrics import Counter, Family, Label, field, fields
from lab.probes.flows.measure import Direction, protocol_name
from lab.probes.flows.text import address


def families(args: argparse.Namespace) -> list[Family]:
    """Return the metrics. Raises `LabError` for options that do not count by pair of addresses."""
    if args.connections or args.mac:
        raise LabError("--metrics counts by pair of addresses: leave --connections and --mac out")
    labels = {
        "source_address": _end("saddr"),
        "destination_address": _end("daddr"),
        "protocol": fields(("ethertype", "protocol", "problem"), lambda parts: protocol_name(*parts.tolist())),
        "direction": field("direction", lambda direction: Direction(direction).name.lower()),
    }
    return [
        Counter("network_flow_packets", "Packets from source to destination", labels, itemgetter("packets")),
        Counter("network_flow_bytes", "Bytes of the frames from source to destination", labels, itemgetter("bytes")),
    ]


def _end(name: str) -> Label:
    return fields((name, "version"), lambda end: address(end[name], int(end["version"])))
