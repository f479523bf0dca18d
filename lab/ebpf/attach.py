"""Loading and attaching BPF functions, and the choice of mechanism.

The name of a function in `bpf/*.c` is its attach point: `on_<kind>__<event>[__<role>]`; the macros of
`bpf/include/attach_points.h` compose it. What lives here: loading and attaching for each kind of attach point. What
does not: compiling (`compiler.py`), and network interfaces (`interface_attach.py`).
"""

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lab.ebpf.cache import recall
from lab.errors import LabError, UnsupportedByKernel
from lab.linux import bpf, btf, cgroup, tracefs
from lab.linux.bpf import AttachType, ProgType
from lab.linux.instance import Instance, event_group
from lab.linux.syscalls import owned

if TYPE_CHECKING:
    from lab.ebpf.interface import Device

MECHANISMS = ("fentry", "kprobe", "tracepoint")
"""Mechanisms that observe a kernel function, best first. A tracepoint is near the entry or return, not at it."""

BEST = "best"
"""Stands for the best mechanism that the kernel allows."""

FORCED = "LAB_ATTACH"
"""The environment variable that forces a mechanism."""

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
# Kinds whose target is in the kernel's BTF: attach type, kind of BTF type, prefix of its name.
_TRACING = {
    "tp_btf": (AttachType.TRACE_RAW_TP, "TYPEDEF", "btf_trace_"),
    "fentry": (AttachType.TRACE_FENTRY, "FUNC", ""),
    "fexit": (AttachType.TRACE_FEXIT, "FUNC", ""),
}
_CGROUP = {"ingress": AttachType.CGROUP_INET_INGRESS, "egress": AttachType.CGROUP_INET_EGRESS}
_ON_DEVICES = ("tc", "xdp")
_OF_NETWORK = (*_ON_DEVICES, "cgroup_skb")
# Both are the same attach point. With tp_btf the verifier knows the types of the arguments.
_AT_TRACEPOINTS = ("raw_tracepoint", "tp_btf")
# The kernel runs the program that was attached last first: bpf_trampoline_link_prog(), add_new_kprobe().
_LATEST_FIRST = ("fentry", "fexit", "kprobe")
_AT_RETURN = ("fexit", "kretprobe")
_PERF_TYPE_TRACEPOINT = 2
_TRIAL_FUNCTION = "tcp_v4_connect"  # every kernel with IPv4 has it


class Function(NamedTuple):
    """A loaded BPF function: kind and event of its attach point, file descriptor, role.

    The role is one of

    - `again`: the second program at the event, which acts if the first did not run;
    - `unaudited`: a program whose runs are not compared with the kernel's count of the event;
    - "" for any other program.
    """

    kind: str
    event: str
    fd: int
    role: str = ""

    @property
    def place(self) -> str:
        """Name of the attach point, as in results."""
        return place(self.kind, self.event)

    @property
    def again(self) -> bool:
        """True for the second program at its event."""
        return self.role == "again"

    @property
    def order(self) -> tuple[bool, bool]:
        """Sort key: functions with smaller keys are attached first.

        - The kernel runs a second program after the first at the same event.
        - A program at a function's return is attached before the one at its entry, so that each observed entry has its
          return.
        """
        return (self.again != (self.kind in _LATEST_FIRST), self.kind not in _AT_RETURN)

    @property
    def audited(self) -> bool:
        """True if the audit compares the function's runs with the kernel's count of the event (`audit.py`)."""
        return self.kind in _AT_TRACEPOINTS and not self.role

    @property
    def on_device(self) -> bool:
        """True if the function is attached to network interfaces."""
        return self.kind in _ON_DEVICES


def capabilities(kinds: Iterable[str]) -> list[str]:
    """Return the capabilities that loading and attaching programs of these kinds takes: bpf_prog_load().

    The verifier may want `PERFMON` for programs at network interfaces too (`allow_ptr_leaks`).
    """
    of_network = {kind in _OF_NETWORK for kind in kinds}
    return ["BPF", *(name for name, needs in (("NET_ADMIN", True), ("PERFMON", False)) if needs in of_network)]


def place(kind: str, event: str) -> str:
    """Return the name of an attach point, as in results."""
    kind = "raw_tracepoint" if kind in _AT_TRACEPOINTS else kind
    return f"{kind.replace('_', ' ')}:{event}"


@cache
def mechanism() -> str:
    """Return the mechanism that observes kernel functions on this machine.

    It is the one in `LAB_ATTACH`, or the best that works. Raises `LabError` when `LAB_ATTACH` is not one of
    `MECHANISMS`.
    """
    if asked_for := forced():
        return asked_for
    for name in MECHANISMS[:-1]:
        with suppress(OSError, LabError):
            attempt(name)
            return name
    return MECHANISMS[-1]


def forced() -> str | None:
    """Return the mechanism in `LAB_ATTACH`, None if it is not set. Raises `LabError` for an unknown mechanism."""
    name = os.environ.get(FORCED)
    if name is not None and name not in MECHANISMS:
        raise LabError(f"{FORCED} is `{name}`: set it to one of {', '.join(MECHANISMS)}, or not at all")
    return name


def attempt(name: str) -> str:
    """Attach to entry and return of a kernel function by `fentry` or `kprobe`, detach, and return a description.

    Attaches twice, since each recording attaches its programs again: before Linux 5.13 fentry refuses the second time.
    Raises `OSError` or `LabError` with the reason of a refusal.
    """
    for kind in {"fentry": ("fentry", "fexit"), "kprobe": ("kprobe", "kretprobe")}[name]:
        with owned(load(kind, _TRIAL_FUNCTION, bpf.RETURN_ZERO)) as fd:
            for _ in range(2):
                with ExitStack() as links:
                    _ATTACH[kind](Function(kind, _TRIAL_FUNCTION, fd), links)
    return f"attached to {_TRIAL_FUNCTION}, entry and return, twice"


def load(kind: str, event: str, instructions: bytes) -> int:
    """Load one function's instructions and return the program's fd. Raises `OSError` with the kernel's reason."""
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
    """Return why this kernel refuses to attach a loaded function, None if it does not.

    Attaches and detaches the function. Functions at network interfaces are not tried: every kernel with BPF has XDP and
    TC.
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
    """Return the BTF type id of a kernel function or tracepoint, from the cache if it is there."""

    def look_up() -> bytes:
        return str(btf.Btf.of_kernel().type_id(kind, name)).encode()

    return int(recall("function", f"{btf.kernel_identity()} {kind} {name}".encode(), look_up))


def attach(function: Function, devices: "Sequence[Device]", links: ExitStack) -> list[str]:
    """Attach a function until `links` is closed, and return the names of its attach points, as in results.

    At a device the name includes the mode or the mechanism: `xdp:frame (generic)`. Raises `UnsupportedByKernel` when
    the kernel refuses.
    """
    try:
        if function.on_device:
            return [f"{function.place} ({_attach_to_device(function, device, links)})" for device in devices]
        _ATTACH[function.kind](function, links)
    except OSError as error:
        raise UnsupportedByKernel.refusal(f"the {function.place}", error) from error
    return [function.place]


def _attach_to_device(function: Function, device: "Device", links: ExitStack) -> str:
    from lab.ebpf import interface_attach  # noqa: PLC0415 (most programs observe sockets)

    if function.kind == "xdp":
        return interface_attach.attach_xdp(device, function.fd, links)
    return interface_attach.attach_tc(device, function.fd, function.event, links)


def _raw_tracepoint(function: Function, links: ExitStack) -> None:
    links.callback(os.close, bpf.raw_tracepoint_open(function.event, function.fd))


def _tracepoint(function: Function, links: ExitStack) -> None:
    _perf_event(function, links, _PERF_TYPE_TRACEPOINT, tracefs.event_id(function.event), None)


def _tracing(function: Function, links: ExitStack) -> None:
    try:
        links.callback(os.close, bpf.raw_tracepoint_open(None, function.fd))
    except OSError as error:
        # bpf_tracing_prog_attach(): the first link took the target from the program.
        if error.errno == errno.ENOENT:
            raise OSError(errno.ENOENT, "before Linux 5.13 a program can be attached by fentry only once") from error
        raise


def _kprobe(function: Function, links: ExitStack) -> None:
    kind = Path("/sys/bus/event_source/devices/kprobe/type")
    if not kind.exists():
        raise OSError(errno.ENOENT, "this kernel has no kprobe events")
    _perf_event(function, links, int(kind.read_text(encoding="utf-8")), 0, function.event)


def _kretprobe(function: Function, links: ExitStack) -> None:
    """Attach to an event of tracefs: a kretprobe of perf misses the returns of all but ten calls under way at once."""
    event = tracefs.return_event(
        event_group(Instance.current().name), f"{function.event}_{function.fd}", function.event
    )
    _perf_event(function, links, _PERF_TYPE_TRACEPOINT, links.enter_context(event), None)


def _perf_event(function: Function, links: ExitStack, event_type: int, config: int, probed: str | None) -> None:
    event = bpf.perf_event_open(event_type, config, probed)
    links.callback(os.close, event)
    bpf.perf_event_set_bpf(event, function.fd)


def _cgroup_skb(function: Function, links: ExitStack) -> None:
    """Attach to the root of the hierarchy: every socket belongs to a cgroup below it."""
    with cgroup.root() as place, owned(os.open(place, os.O_RDONLY | os.O_DIRECTORY)) as folder:
        links.callback(os.close, bpf.link_create(function.fd, folder, _CGROUP[function.event]))


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
