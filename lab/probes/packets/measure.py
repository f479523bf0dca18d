"""Packets by flow, and the arrival of a byte: pure functions over the events of the probe `packets`."""

import numpy as np
import numpy.typing as npt

from lab.arrays import Events
from lab.packet import TCP, unwrapped
from lab.tcp import UNSPECIFIED, Flow

_UNSPECIFIED: set[str | int] = {*UNSPECIFIED, 0}  # of a socket that was never connected


def by_flow(packets: Events) -> dict[tuple[int, Flow], Events]:
    """Return the TCP packets by ifindex and flow (the sender first), each group in the order given."""
    segments = packets[(packets["problem"] == 0) & (packets["protocol"] == TCP)]
    if not len(segments):
        return {}
    names = ("saddr", "daddr", "sport", "dport", "ifindex")
    columns = [np.ascontiguousarray(segments[name]).view(np.uint8).reshape(len(segments), -1) for name in names]
    keys = np.concatenate(columns, axis=1)
    _, first, number = np.unique(
        np.ascontiguousarray(keys).view(f"V{keys.shape[1]}")[:, 0], return_index=True, return_inverse=True
    )
    order = np.argsort(number, kind="stable")
    groups = np.split(segments[order], np.searchsorted(number[order], np.arange(1, len(first))))
    return {(int(group["ifindex"][0]), Flow.of(group[0])): group for group in groups}


def packets_of(flows: dict[tuple[int, Flow], Events], ifindex: int, flow: Flow) -> list[Events]:
    """Return the groups of `by_flow` for one interface and flow; an unspecified address or port matches any."""
    if (ifindex, flow) in flows:
        return [flows[ifindex, flow]]
    if not _UNSPECIFIED & set(flow):
        return []
    return [
        packets
        for (place, seen), packets in flows.items()
        if place == ifindex and all(known in (part, *_UNSPECIFIED) for part, known in zip(seen, flow, strict=True))
    ]


def arrival_of_byte(seq: npt.NDArray[np.uint32], length: npt.NDArray[np.uint32], byte: int) -> int | None:
    """Return the index of the first segment that contains a byte of the stream, or None. Byte 0 follows the SYN.

    `seq` and `length` are as for `distinct_bytes`; the first segment is the SYN.
    """
    offset = unwrapped(seq) - 1
    offset[:1] = 0  # the SYN takes the sequence number before byte 0
    contains = (length > 0) & (offset <= byte) & (byte < offset + length.astype(np.int64))
    found = np.flatnonzero(contains)
    return int(found[0]) if len(found) else None
