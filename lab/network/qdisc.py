"""Options of the qdiscs netem and tbf in the kernel's own units, exact to the nanosecond and the byte.

The layout is that of `include/uapi/linux/pkt_sched.h`. pyroute2 only sends the bytes: its version 0.9.7 rounds netem's
times to microseconds and tbf's burst, and has neither netem's 64-bit attributes nor its seed.
"""

import struct
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, nlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_DELQDISC, RTM_NEWQDISC, TC_H_ROOT
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from lab.errors import LabError
from lab.network.conditions import Conditions

_ALL = 0xFFFFFFFF  # the fraction 1
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET: the kernel computes transmission times without a table from user space


class _Request(nlmsg):  # type: ignore[misc]  # pyroute2 has no types
    """A tc message with options as bytes. It is no subclass of `tcmsg`, since subclasses share compiled attributes."""

    fields = tcmsg.fields
    nla_map = (("TCA_UNSPEC", "none"), ("TCA_KIND", "asciiz"), ("TCA_OPTIONS", "cdata"))


def replace(netlink: IPRoute, index: int, kind: str, options: bytes) -> None:
    """Set or change the root qdisc of a device. Raises `LabError` if the kernel refuses."""
    message = _Request()
    message["index"], message["parent"], message["handle"] = index, TC_H_ROOT, 0x10000
    message["attrs"] = [("TCA_KIND", kind), ("TCA_OPTIONS", options)]
    _send(netlink, message, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE)


def remove(netlink: IPRoute, index: int) -> None:
    """Remove a device's root qdisc; the kernel restores the default qdisc."""
    message = _Request()
    message["index"], message["parent"] = index, TC_H_ROOT
    _send(netlink, message, RTM_DELQDISC, 0)


def netem(conditions: Conditions) -> bytes:
    """Return netem's options: `struct tc_netem_qopt` and attributes. Raises `LabError` if netem lacks a condition."""
    if conditions.drop:
        raise LabError("netem cannot drop frames by name: use the relay, or leave `drop` out")
    # The fields in ticks are 0: the kernel reads the 64-bit attributes instead.
    gap = 1 if conditions.reorder else 0
    loss, duplicate = _fraction(conditions.loss), _fraction(conditions.duplicate)
    options = struct.pack("=6I", 0, conditions.limit, loss, gap, duplicate, 0)
    options += attribute(10, struct.pack("=q", conditions.delay_ns))  # TCA_NETEM_LATENCY64
    options += attribute(11, struct.pack("=q", conditions.jitter_ns))  # TCA_NETEM_JITTER64
    options += attribute(14, struct.pack("=Q", conditions.seed))  # TCA_NETEM_PRNG_SEED, since Linux 6.6
    options += attribute(3, struct.pack("=2I", _fraction(conditions.reorder), 0))  # TCA_NETEM_REORDER
    options += attribute(4, struct.pack("=2I", _fraction(conditions.corrupt), 0))  # TCA_NETEM_CORRUPT
    bytes_per_second = conditions.rate_bps // 8
    options += attribute(8, struct.pack("=Q", bytes_per_second))  # TCA_NETEM_RATE64
    return options + attribute(6, struct.pack("=IiIi", min(bytes_per_second, _ALL), 0, 0, 0))  # TCA_NETEM_RATE


def tbf(bytes_per_second: int, burst: int, limit: int) -> bytes:
    """Return tbf's options: `struct tc_tbf_qopt`, burst and rate; `burst` and `limit` are in bytes."""
    rate = struct.pack("=BBHhHI", 0, _ETHERNET, 0, 0, 0, min(bytes_per_second, _ALL))
    no_peak = bytes(12)
    parameters = rate + no_peak + struct.pack("=3I", limit, 0, 0)
    options = attribute(1, parameters) + attribute(6, struct.pack("=I", burst))  # TCA_TBF_PARMS, TCA_TBF_BURST
    return options + attribute(4, struct.pack("=Q", bytes_per_second))  # TCA_TBF_RATE64


def attribute(number: int, value: bytes) -> bytes:
    """Return a netlink attribute: length, number and value, padded to four bytes."""
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def _fraction(part: float) -> int:
    return round(part * _ALL)


def _send(netlink: IPRoute, message: Any, kind: int, flags: int) -> None:
    message["header"]["type"], message["header"]["flags"] = kind, NLM_F_REQUEST | NLM_F_ACK | flags
    try:
        # A batch of one, since nlm_request() of a synchronous IPRoute does not work in pyroute2 0.9.7.
        netlink.nlm_request_batch([message])
    except NetlinkError as refusal:
        what = dict(message["attrs"]).get("TCA_KIND", "the removal of its qdisc")
        raise LabError(f"the kernel refused {what} on a device ({refusal}): see lab doctor") from refusal
