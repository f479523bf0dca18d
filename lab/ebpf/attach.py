"""Where BPF functions are attached: the kinds of attach points, and which of them a machine allows.

A function of `bpf/*.c` says where it belongs by its name, `on_<kind>__<event>[__<role>]` (the macros of bpf/include/lab.h make it).
What lives here: loading and attaching each kind. What does not: compiling, and what a function does.
"""

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lab.ebpf.cache import recall
from lab.errors import LabError, UnsupportedByKernel
from lab.linux import bpf, btf, tracefs
from lab.linux.bpf import AttachType, ProgType, owned
from lab.linux.instance import Instance, event_group

if TYPE_CHECKING:
    from lab.ebpf.interface import Device

MECHANISMS = ("fentry", "kprobe", "tracepoint")
"""How a kernel function can be observed, best first; a tracepoint is near it and not at it."""

BEST = "best"
"""The way that the kernel offers itself, best first."""

FORCED = "LAB_ATTACH"
"""The environment variable that names the way to use instead of the best."""

_PROG_TYPES = {
    "raw_tracepoint": ProgType.RAW_TRACEPOINT,
    "tp_btf": ProgType.TRACING,
    "tracepoint": ProgType.TRACEPOINT,
    "fentry": ProgType.TRACING,
    "fexit": ProgType.TRACING,
    "kprobe": ProgType.KPROBE,
    "kretprobe": ProgType.KPROBE,
    "tc": ProgType.SCHED_CLS,
    "xdp": ProgType.XDP,
    "cgroup_skb": ProgType.CGROUP_SKB,
}
# How such a program is attached, and what in the kernel's types is what it is attached to.
_TRACING = {
    "tp_btf": (AttachType.TRACE_RAW_TP, "TYPEDEF", "btf_trace_"),
    "fentry": (AttachType.TRACE_FENTRY, "FUNC", ""),
    "fexit": (AttachType.TRACE_FEXIT, "FUNC", ""),
}
_CGROUP = {"ingress": AttachType.CGROUP_INET_INGRESS, "egress": AttachType.CGROUP_INET_EGRESS}
_ON_DEVICES = ("tc", "xdp")
_AT_TRACEPOINTS = ("raw_tracepoint", "tp_btf")  # one place: the second knows the types of the arguments
_LATEST_FIRST = ("fentry", "fexit", "kprobe")  # bpf_trampoline_link_prog(), add_new_kprobe()
_AT_RETURN = ("fexit", "kretprobe")
_PERF_TYPE_TRACEPOINT = 2
_TRIED = "tcp_v4_connect"  # a function that every kernel with IPv4 has


class Function(NamedTuple):
    """A loaded BPF function: the kind of its attach point, the event there, its file descriptor.

    `role` is `again` for the one that acts when the first at the same event was left out, `unaudited` where nobody compares how often
    it ran with how often the event came.
    """

    kind: str
    event: str
    fd: int
    role: str = ""

    @property
    def place(self) -> str:
        """The attach point, as results name it."""
        return place(self.kind, self.event)

    @property
    def again(self) -> bool:
        """Tell whether it makes up for another one."""
        return self.role == "again"

    @property
    def order(self) -> tuple[bool, bool]:
        """Tell when it is attached, least first.

        One that makes up for another is run behind it; what is seen to enter a function is seen to return from it.
        """
        return (self.again != (self.kind in _LATEST_FIRST), self.kind not in _AT_RETURN)

    @property
    def audited(self) -> bool:
        """Tell whether it counts its runs, so that they can be compared with the event's hits."""
        return self.kind in _AT_TRACEPOINTS and not self.role

    @property
    def on_device(self) -> bool:
        """Tell whether it is attached to network interfaces."""
        return self.kind in _ON_DEVICES


def place(kind: str, event: str) -> str:
    """Name an attach point as results do."""
    kind = "raw_tracepoint" if kind in _AT_TRACEPOINTS else kind
    return f"{kind.replace('_', ' ')}:{event}"


@cache
def mechanism() -> str:
    """Return how this machine's kernel functions are observed: what `LAB_ATTACH` says, or the best that works.

    As for `forced`.
    """
    if asked_for := forced():
        return asked_for
    for name in MECHANISMS[:-1]:
        with suppress(OSError, LabError):
            attempt(name)
            return name
    return MECHANISMS[-1]


def forced() -> str | None:
    """Return the way that `LAB_ATTACH` names, None when it is not set. Raises `LabError` when it names none of `MECHANISMS`."""
    name = os.environ.get(FORCED)
    if name is not None and name not in MECHANISMS:
        raise LabError(f"{FORCED} is `{name}`: set it to one of {', '.join(MECHANISMS)}, or not at all")
    return name


def attempt(name: str) -> str:
    """Observe a kernel function by `fentry` or `kprobe`, entry and return, for a moment; returns what was done.

    Twice, as programs are attached for each recording anew: before Linux 5.13 that is refused by fentry the second time. `OSError` or
    `LabError` says why this machine refuses it.
    """
    for kind in {"fentry": ("fentry", "fexit"), "kprobe": ("kprobe", "kretprobe")}[name]:
        with owned(load(kind, _TRIED, bpf.RETURN_ZERO)) as fd:
            for _ in range(2):
                with ExitStack() as links:
                    _ATTACH[kind](Function(kind, _TRIED, fd), links)
    return f"attached to {_TRIED}, entry and return, twice"


def load(kind: str, event: str, instructions: bytes) -> int:
    """Load one function's instructions; returns the program's file descriptor. `OSError` says why it is refused."""
    expected, target = 0, 0
    if kind in _TRACING:
        expected, type_kind, prefix = _TRACING[kind]
        try:
            target = _type_id(type_kind, prefix + event)
        except LabError as error:
            raise OSError(errno.ENOENT, str(error)) from error
    elif kind == "cgroup_skb":
        expected = _CGROUP[event]
    return bpf.prog_load(
        _PROG_TYPES[kind],
        instructions,
        expected_attach_type=expected,
        attach_btf_id=target,
        name=f"lab_{event}"[:15],
    )


def refusal(function: Function) -> str | None:
    """Tell why this kernel has no such place for a loaded function, found by attaching it for a moment; None when it has.

    Not tried is what takes a device: every kernel with BPF has those.
    """
    if function.on_device:
        return None
    try:
        with ExitStack() as links:
            attach(function, (), links)
    except UnsupportedByKernel as error:
        return str(error)
    return None


def _type_id(kind: str, name: str) -> int:
    """Look up by what number the running kernel's types know a function or tracepoint."""

    def look_up() -> bytes:
        return str(btf.Btf.of_kernel().type_id(kind, name)).encode()

    return int(recall("function", f"{btf.kernel_identity()} {kind} {name}".encode(), look_up))


def attach(function: Function, devices: "Sequence[Device]", links: ExitStack) -> list[str]:
    """Attach a function until `links` is closed. Raises `UnsupportedByKernel` when the kernel does so.

    Returns the attach points, as results name them; at a device with the mechanism that was used: `xdp:frame (generic)`.
    """
    try:
        if function.on_device:
            attach_to = (getattr(device, f"attach_{function.kind}") for device in devices)
            return [f"{function.place} ({to_device(function.fd, function.event, links)})" for to_device in attach_to]
        _ATTACH[function.kind](function, links)
    except OSError as error:
        raise UnsupportedByKernel(
            f"this kernel refuses the {function.place} ({error.strerror}): see lab doctor"
        ) from error
    return [function.place]


def _raw_tracepoint(function: Function, links: ExitStack) -> None:
    links.callback(os.close, bpf.raw_tracepoint_open(function.event, function.fd))


def _tracepoint(function: Function, links: ExitStack) -> None:
    _perf_event(function, links, _PERF_TYPE_TRACEPOINT, tracefs.event_id(function.event), None)


def _tracing(function: Function, links: ExitStack) -> None:
    try:
        links.callback(os.close, bpf.raw_tracepoint_open(None, function.fd))
    except OSError as error:
        # bpf_tracing_prog_attach(): what the program was loaded for has gone with its first link.
        if error.errno == errno.ENOENT:
            raise OSError(errno.ENOENT, "before Linux 5.13 a program can be attached by fentry only once") from error
        raise


def _kprobe(function: Function, links: ExitStack) -> None:
    kind = Path("/sys/bus/event_source/devices/kprobe/type")
    if not kind.exists():
        raise OSError(errno.ENOENT, "this kernel has no kprobe events")
    _perf_event(function, links, int(kind.read_text()), 0, function.event)


def _kretprobe(function: Function, links: ExitStack) -> None:
    """By an event of tracefs: one of perf's own has room for ten calls under way, and passes over the return of all others."""
    event = tracefs.return_event(
        event_group(Instance.current().name), f"{function.event}_{function.fd}", function.event
    )
    _perf_event(function, links, _PERF_TYPE_TRACEPOINT, links.enter_context(event), None)


def _perf_event(function: Function, links: ExitStack, event_type: int, config: int, probed: str | None) -> None:
    event = bpf.perf_event_open(event_type, config, probed)
    links.callback(os.close, event)
    bpf.perf_event_set_bpf(event, function.fd)


def _cgroup_skb(function: Function, links: ExitStack) -> None:
    """Attach to the root of the hierarchy: every socket belongs to some cgroup below it."""
    places = tracefs.mounts("cgroup2")
    if not places:
        raise LabError("no cgroup v2 hierarchy is mounted: mount one (`mount -t cgroup2 none /sys/fs/cgroup`)")
    with owned(os.open(places[0], os.O_RDONLY | os.O_DIRECTORY)) as cgroup:
        links.callback(os.close, bpf.link_create(function.fd, cgroup, _CGROUP[function.event]))


_ATTACH: dict[str, Callable[[Function, ExitStack], None]] = {
    "raw_tracepoint": _raw_tracepoint,
    "tp_btf": _tracing,
    "tracepoint": _tracepoint,
    "fentry": _tracing,
    "fexit": _tracing,
    "kprobe": _kprobe,
    "kretprobe": _kretprobe,
    "cgroup_skb": _cgroup_skb,
}
