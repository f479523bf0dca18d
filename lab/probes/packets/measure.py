"""Packets by flow, and which of them brought a byte: pure functions over the events of the probe `packets`."""

import numpy as np
import numpy.typing as npt

from lab.arrays import Events
from lab.packet import TCP, unwrapped
from lab.tcp import UNSPECIFIED, Flow

_UNSPECIFIED: set[str | int] = {*UNSPECIFIED, 0}  # of a socket that was never connected


def by_flow(packets: Events) -> dict[tuple[int, Flow], Events]:
    """TCP's packets of each flow at each interface, in the order given; by ifindex, and flow with the sender first."""
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
    """Return what came of a flow to an interface, of `by_flow`; an unspecified address or port stands for any."""
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
    """Index of the segment that first brought a byte, counted from the first SYN's successor; None when none did.

    `seq` and `length` as for `distinct_bytes`, with the SYN as the first segment.
    """
    offset = unwrapped(seq) - 1
    offset[:1] = 0  # the SYN itself takes the number before the stream
    brings = (length > 0) & (offset <= byte) & (byte < offset + length.astype(np.int64))
    found = np.flatnonzero(brings)
    return int(found[0]) if len(found) else None
