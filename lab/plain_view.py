"""A recording of an unusual network in the form that the judges expect: one path, and one pair of addresses.

A judge knows a connection by the client's addresses, and each host by one interface. Behind a router that translates
addresses, on asymmetric paths and on the loopback that is not so, though each number of a probe may be right.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lab.arrays import Events
from lab.network.segment_parser import packed
from lab.network.topology import Topology
from lab.observation import Observed


def as_plain(observed: Observed, net: Topology) -> Observed:
    """Return what was observed, with each connection under the client's addresses and at one interface of each host.

    Of a loopback, which the probe `flows` counts at egress only, each packet counts as arrived as well. The probe `layers`
    joins both sides of a translation itself, so its events stay as they are.
    """
    translated = net.description.translated
    addresses = {packed(seen).tobytes(): packed(meant).tobytes() for seen, meant in translated.items()}
    main = {host.inode: host.ifindex for host in (net.client, net.server)}
    recording = observed.recording
    indexes = {device.ifindex: main[device.inode] for device in net.devices}

    def plain(arrays: Mapping[str, Events]) -> dict[str, Events]:
        return {
            probe: rows if probe == "layers" else _plain(rows, addresses, indexes) for probe, rows in arrays.items()
        }

    devices = {index: device for index, device in recording.devices.items() if indexes.get(index, index) == index}
    connections = [
        replace(it, server=it.server and replace(it.server, flow=it.server.flow.translated(translated)))
        for it in observed.connections
    ]
    totals = plain(recording.totals)
    if net.client == net.server and "flows" in totals:
        arrived = totals["flows"].copy()
        arrived["direction"] ^= 1
        totals["flows"] = np.concatenate([totals["flows"], arrived])
    view = replace(recording, events=plain(recording.events), totals=totals, devices=devices)
    return replace(observed, recording=view, connections=connections)


def _plain(rows: Events, addresses: Mapping[bytes, bytes], indexes: Mapping[int, int]) -> Events:
    """Return rows with other addresses and ifindexes; both are unique in the network."""
    rows = rows.copy()
    for name in rows.dtype.names or ():
        if name.endswith("addr") and rows.dtype[name].shape == (16,):
            before = rows[name].copy()
            for seen, meant in addresses.items():
                rows[name][(before == np.frombuffer(seen, np.uint8)).all(axis=1)] = np.frombuffer(meant, np.uint8)
    if "ifindex" in (rows.dtype.names or ()):
        for index, main in indexes.items():
            rows["ifindex"][rows["ifindex"] == index] = main
    return rows
