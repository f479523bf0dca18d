"""Trials of the kernel's network: qdiscs, filters, XDP, bridge and packet sockets on a veth in a new namespace.

The trials run on one thread, in a network namespace without a name. The kernel removes the namespace with everything in
it when the thread ends, after success, failure or Ctrl-C. Each trial undoes its changes: the next one uses the same
veth. What does not live here: the meaning of the results (`capabilities.py`).
"""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lab.linux import netns
from lab.linux.bpf import RETURN_ZERO, AttachType, ProgType, link_create, prog_load
from lab.linux.syscalls import owned

_CLSACT_INGRESS = 0xFFFFFFF2  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
_XDP_GENERIC, _XDP_NATIVE = 1 << 1, 1 << 2  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23

T = TypeVar("T")
Attempt = Callable[[], str]
Trial = Callable[[IPRoute, int], str]  # takes the ifindex of the veth


@contextmanager
def _os_errors() -> Iterator[None]:
    """Raise `OSError` in place of pyroute2's `NetlinkError`."""
    try:
        yield
    except NetlinkError as refusal:
        raise OSError(*refusal.args) from refusal


@contextmanager
def _qdisc(netlink: IPRoute, index: int, kind: str, **options: Any) -> Iterator[None]:
    netlink.tc("add", kind, index, **options)
    try:
        yield
    finally:
        netlink.tc("del", kind, index, **options)


def _qdisc_trial(kind: str, **options: Any) -> Trial:
    def attempt(netlink: IPRoute, index: int) -> str:
        with _qdisc(netlink, index, kind, **options):
            return "added to a veth and removed"

    return attempt


def _tc_filter(netlink: IPRoute, index: int) -> str:
    with owned(prog_load(ProgType.SCHED_CLS, RETURN_ZERO)) as fd, _qdisc(netlink, index, "clsact"):
        options = {"fd": fd, "name": "lab_trial", "parent": _CLSACT_INGRESS, "direct_action": True}
        netlink.tc("add-filter", "bpf", index, ":1", **options)
    return "attached to the ingress of a veth"


def _bpf_link(prog_type: ProgType, attach_type: AttachType, flags: int = 0) -> Trial:
    def attempt(_netlink: IPRoute, index: int) -> str:
        with (
            owned(prog_load(prog_type, RETURN_ZERO, expected_attach_type=attach_type)) as program,
            owned(link_create(program, index, attach_type, flags)),
        ):
            return "attached to a veth"

    return attempt


def _bridge(netlink: IPRoute, index: int) -> str:
    netlink.link("add", ifname="bridge", kind="bridge")
    (bridge,) = netlink.link_lookup(ifname="bridge")
    try:
        netlink.link("set", index=index, master=bridge)
    finally:
        netlink.link("del", index=bridge)
    return "created with a veth as its port"


def _packet_socket(_netlink: IPRoute, index: int) -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packets:
        packets.bind((socket.if_indextoname(index), 0))
        packets.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    return "bound to a veth, without its own outgoing frames"


VETH = "veth in a netns"
TRIALS: dict[str, Trial] = {
    "clsact": _qdisc_trial("clsact"),
    "TC filter": _tc_filter,
    "TCX": _bpf_link(ProgType.SCHED_CLS, AttachType.TCX_INGRESS),
    "XDP native": _bpf_link(ProgType.XDP, AttachType.XDP, _XDP_NATIVE),
    "XDP generic": _bpf_link(ProgType.XDP, AttachType.XDP, _XDP_GENERIC),
    "netem": _qdisc_trial("netem", delay=1000),
    "tbf": _qdisc_trial("tbf", rate="1mbit", burst=2000, latency="1ms"),
    "htb": _qdisc_trial("htb", default=0),
    "bridge": _bridge,
    "packet socket": _packet_socket,
}


def run(tried: Callable[[str, Attempt], T]) -> list[T]:
    """Call `tried` with the name and the attempt of each trial and return its results: the veth first, then `TRIALS`.

    An attempt returns a description of its success or raises `OSError`. Raises `OSError` when there is no namespace or
    no veth.
    """
    with ThreadPoolExecutor(1, "net-trials") as thread:
        return thread.submit(_run_in_new_namespace, tried).result()


def _run_in_new_namespace(tried: Callable[[str, Attempt], T]) -> list[T]:
    netns.leave()
    with IPRoute() as netlink:
        with _os_errors():
            netlink.link("add", ifname="trial", kind="veth", peer="trial-peer")
        (index,) = netlink.link_lookup(ifname="trial")

        def attempt(trial: Trial) -> str:
            with _os_errors():
                return trial(netlink, index)

        veth = tried(VETH, lambda: "created in a new netns")
        return [veth, *(tried(name, partial(attempt, trial)) for name, trial in TRIALS.items())]
