"""The capabilities of this machine, found by trials, and the mechanism for each observation.

- Each trial does the real thing and undoes it at once. Kernel version and configuration are not evidence: distributions
  patch kernels, and containers, lockdown and missing privileges refuse what the kernel could do.
- A refusal is a result, so root is not needed.

What does not live here: the trials of the network (`network_trials.py`).
"""

import errno
import mmap
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab.doctor import network_trials
from lab.ebpf import attach, cache, compiler
from lab.ebpf.audit import Hits
from lab.errors import LabError, require_resources
from lab.linux import bpf, cgroup, privileges, tracefs
from lab.linux.bpf import RETURN_ZERO, AttachType, ProgType, instruction, returning
from lab.linux.btf import Btf
from lab.linux.grace_period import await_grace_period
from lab.linux.syscalls import owned, syscall

# For each observation its mechanisms, best first, each with the capability that it needs. The kinds of link come last:
# they are chosen by the same rule.
MECHANISMS: dict[str, tuple[tuple[str, str], ...]] = {
    "TCP state change": (("raw tracepoint sock:inet_sock_set_state", "raw tp inet_sock_set_state"),),
    "segment received on an established socket": (
        ("fentry", "fentry"),
        ("kprobe", "kprobe"),
        ("raw tracepoint tcp:tcp_probe", "raw tp tcp_probe"),
    ),
    "active open": (
        ("fentry", "fentry"),
        ("kprobe", "kprobe"),
        ("sock:inet_sock_set_state CLOSE -> SYN_SENT", "raw tp inet_sock_set_state"),
    ),
    "send, receive by the application": (
        ("fentry + fexit", "fentry"),
        ("kprobe + kretprobe", "kprobe"),
        ("raw tracepoints sys_enter, sys_exit, sock_send_length, sock_recv_length", "raw tp sys_enter"),
    ),
    "segment reaches TCP": (("fentry", "fentry"), ("kprobe", "kprobe"), ("cgroup_skb ingress", "cgroup_skb")),
    "data ready": (
        ("fentry", "fentry"),
        ("kprobe", "kprobe"),
        ("raw tracepoint sock:sk_data_ready", "raw tp sk_data_ready"),
    ),
    "state processing": (
        ("fentry", "fentry"),
        ("kprobe", "kprobe"),
        ("sock:inet_sock_set_state", "raw tp inet_sock_set_state"),
    ),
    "frame at a veth": (("XDP generic", "XDP generic"), ("XDP native", "XDP native")),
    "packet in and out of the stack": (("TCX", "TCX"), ("clsact + direct action", "TC filter")),
    "link condition": (("netem", "netem"), ("relay", "packet socket")),
}

# The capabilities that the suite needs, each with its remedy.
INDISPENSABLE = {
    "root": "run it as root, with all capabilities",
    "BTF": "boot a kernel with CONFIG_DEBUG_INFO_BTF=y",
    "BCC": compiler.REMEDY,
    "kernel memory reads": "boot without lockdown=confidentiality",
    "raw tp inet_sock_set_state": "boot a kernel with CONFIG_BPF_EVENTS=y",
    "raw tp kfree_skb": "boot a kernel with CONFIG_BPF_EVENTS=y",
    "raw tp tcp_probe": "boot a kernel with CONFIG_BPF_EVENTS=y",
    "cgroup_skb": "boot a kernel with CONFIG_CGROUP_BPF=y",
    "TC filter": "boot a kernel with CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS",
    "XDP generic": "boot Linux 5.9 or later",
    "ring buffer": "boot Linux 5.8 or later",
    "tracepoint count": "boot a kernel with CONFIG_PERF_EVENTS=y and give it tracefs",
    "membarrier": "boot without nohz_full",
    network_trials.VETH: "boot a kernel with CONFIG_NET_NS=y and CONFIG_VETH",
}

# SYS_RESOURCE is optional. Before Linux 5.11 the memory of maps counts against RLIMIT_MEMLOCK, which it can raise.
_OPTIONAL = "SYS_RESOURCE"
_NEW_MOUNTS = 0x20000  # CLONE_NEWNS
_PRIVATE = 0x44000  # MS_REC | MS_PRIVATE
_ENOTSUPP = 524  # internal to the kernel (include/linux/errno.h), but BPF calls return it to user space
_WORDS = {
    errno.EPERM: "the kernel forbids it",
    errno.EACCES: "the kernel forbids it",
    errno.ENOENT: "this kernel lacks it",
    errno.EINVAL: "this kernel does not know it, or not with these arguments",
    errno.ENOSYS: "this kernel does not know the system call",
    errno.EOPNOTSUPP: "this kernel does not support it",
    _ENOTSUPP: "this kernel does not support it",
}


@dataclass(frozen=True)
class Capability:
    """A capability that a probe or a link may need. `detail` is the finding, or the kernel's reason for a refusal."""

    name: str
    available: bool
    detail: str


@dataclass(frozen=True)
class Choice:
    """The mechanism for an observation on this machine, and why better ones are refused."""

    observation: str
    chosen: str
    refused: str


def examine() -> list[Capability]:
    """Try every capability, in about half a second, and return the results.

    The trials leave nothing behind except tracefs, which is mounted if necessary; the result mentions that.
    """
    return [tried(name, attempt) for name, attempt in _TRIALS.items()] + _network()


def choices(capabilities: list[Capability]) -> list[Choice]:
    """Return for each observation the best available mechanism, or `none`."""
    found = {capability.name: capability for capability in capabilities}
    made = []
    for observation, mechanisms in MECHANISMS.items():
        chosen, refused = "none", []
        for mechanism, need in mechanisms:
            why = _refusal(found[need], {need for _, need in mechanisms})
            if why is None:
                chosen = mechanism
                break
            refused.append(f"{mechanism}: {why}")
        made.append(Choice(observation, chosen, "; ".join(refused)))
    return made


def _refusal(capability: Capability, needs: set[str]) -> str | None:
    """Return why the mechanism with this capability is refused, None if it is not.

    `needs` are the capabilities of all mechanisms for the same observation. `LAB_ATTACH` refuses all but one of them.
    """
    functions = set(attach.MECHANISMS) & needs
    if functions and (forced := attach.forced()):
        wanted = {forced} if forced in functions else needs - functions
        if capability.name not in wanted:
            return f"{attach.FORCED}={forced}"
    return None if capability.available else capability.detail


def remedies(capabilities: list[Capability]) -> list[str]:
    """Return what to do so that the suite can run here; [] if it can."""
    missing = [capability.name for capability in capabilities if not capability.available]
    advice = [remedy for name, remedy in INDISPENSABLE.items() if name in missing]
    # Without privileges the kernel refuses everything else too, available or not.
    return advice[:1] if "root" in missing else advice


def tried(name: str, attempt: Callable[[], str]) -> Capability:
    """Return the capability that the attempt finds; a refusal (`OSError`, `LabError`) becomes its `detail`."""
    try:
        return Capability(name, available=True, detail=attempt())
    except (OSError, LabError) as refusal:
        return Capability(name, available=False, detail=explain(refusal))


def explain(refusal: OSError | LabError) -> str:
    """Return the reason of a refusal as a sentence with the name of the errno.

    Raises `Exhausted` if it says nothing about the kernel.
    """
    if isinstance(refusal, LabError) or refusal.errno is None:
        return str(refusal)
    require_resources(refusal)
    name = "ENOTSUPP" if refusal.errno == _ENOTSUPP else errno.errorcode.get(refusal.errno, str(refusal.errno))
    plain = os.strerror(refusal.errno)
    # A text that is not the errno's own comes from the verifier or the trial, and is more specific.
    words = _WORDS.get(refusal.errno, plain) if refusal.strerror in {None, plain} else refusal.strerror
    return f"{refusal.filename}: {words} ({name})" if refusal.filename else f"{words} ({name})"


def _network() -> list[Capability]:
    try:
        return network_trials.run(tried)
    except (OSError, LabError) as refusal:
        veth = Capability(network_trials.VETH, available=False, detail=explain(refusal))
        return [
            veth,
            *(Capability(name, available=False, detail="not tried: no veth") for name in network_trials.TRIALS),
        ]


def _root() -> str:
    missing = privileges.missing(*privileges.OF_NETWORKS, _OPTIONAL)
    found = "missing " + ", ".join(f"CAP_{name}" for name in missing) if missing else "all capabilities"
    if os.geteuid() != 0 or set(missing) - {_OPTIONAL}:
        raise LabError(f"user {os.geteuid()}, {found}")
    return f"user 0, {found}"


def _btf() -> str:
    Btf.of_kernel().type_id("STRUCT", "sock")
    return "types of the running kernel are readable"


def _bcc() -> str:
    return f"version {compiler.require()}"


def _tracefs() -> str:
    how = "mounted" if tracefs.mounts("tracefs") else "mounted by this command"
    place = tracefs.root()
    (place / "events" / "sock").stat()
    return f"{how} at {place}"


def _no_lockdown() -> str:
    with ThreadPoolExecutor(1, "lockdown") as thread:
        text = thread.submit(_read_lockdown).result()
    mode = text[text.index("[") + 1 : text.index("]")]
    if mode != "none":
        raise LabError(f"the kernel is locked down: {mode}")
    return "not locked down"


def _read_lockdown() -> str:
    """Return the text of the lockdown file.

    Call this on a new thread: it may move the thread to a new mount namespace to mount securityfs.
    """
    path = Path("/sys/kernel/security/lockdown")
    try:
        if not path.exists():
            syscall("unshare", _NEW_MOUNTS)
            syscall("mount", None, b"/", None, _PRIVATE, None)
            syscall("mount", b"securityfs", os.fsencode(path.parent), b"securityfs", 0, None)
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "[none]: this kernel cannot be locked down"


def _kernel_reads() -> str:
    """Load a program that calls `bpf_probe_read_kernel(fp - 8, 8, NULL)`, as every reader of kernel structs does."""
    destination = instruction(0xBF, dst=1, src=10) + instruction(0x07, dst=1, value=-8)
    call = instruction(0xB7, dst=2, value=8) + instruction(0xB7, dst=3) + instruction(0x85, value=113)
    os.close(bpf.prog_load(ProgType.RAW_TRACEPOINT, destination + call + RETURN_ZERO))
    return "bpf_probe_read_kernel may be called"


def _ring_buffer() -> str:
    os.close(bpf.map_create(bpf.RINGBUF, 0, 0, mmap.PAGESIZE))
    return "created"


def _tp_btf(event: str) -> str:
    target = Btf.of_kernel().type_id("TYPEDEF", f"btf_trace_{event}")
    load = partial(bpf.prog_load, expected_attach_type=AttachType.TRACE_RAW_TP, attach_btf_id=target)
    with owned(load(ProgType.TRACING, RETURN_ZERO)) as program:
        os.close(bpf.raw_tracepoint_open(None, program))
    return f"attached to {event}"


def _tracepoint(event: str) -> str:
    with (
        owned(bpf.prog_load(ProgType.TRACEPOINT, RETURN_ZERO)) as program,
        owned(bpf.perf_event_open(2, tracefs.event_id(event.rpartition("/")[2]))) as opened,
    ):
        bpf.perf_event_set_bpf(opened, program)
    return f"attached to {event.replace('/', ':')}"


def _tracepoint_count() -> str:
    with Hits(["inet_sock_set_state"]) as hits:
        return f"perf counts hits ({hits.count().sum()} during the trial)"


def _membarrier() -> str:
    await_grace_period()
    return "waits for programs on other CPUs"


def _raw_tracepoint(name: str) -> str:
    with owned(bpf.prog_load(ProgType.RAW_TRACEPOINT, RETURN_ZERO)) as program:
        os.close(bpf.raw_tracepoint_open(name, program))
    return f"attached to {name}"


@contextmanager
def _cgroup() -> Iterator[Path]:
    """Create a cgroup for one trial and yield its folder; if that is refused, yield the root of the hierarchy."""
    with cgroup.root() as place:
        try:
            scratch = Path(tempfile.mkdtemp(prefix=f"lab-trial-{os.getpid()}-", dir=place))
        except OSError:
            yield place
        else:
            try:
                yield scratch
            finally:
                scratch.rmdir()


def _cgroup_program(prog_type: ProgType, attach_type: AttachType) -> str:
    # The program returns 1, which passes every packet. At the root of the hierarchy a program that returns 0 would drop
    # all packets.
    with (
        owned(bpf.prog_load(prog_type, returning(1), expected_attach_type=attach_type)) as program,
        _cgroup() as path,
        owned(os.open(path, os.O_RDONLY | os.O_DIRECTORY)) as cgroup,
    ):
        bpf.prog_attach(cgroup, program, attach_type, bpf.ALLOW_MULTI)
        bpf.prog_detach(cgroup, program, attach_type)
    return "attached to a cgroup" if path.name.startswith("lab-trial") else f"attached to {path}"


_TRIALS: dict[str, Callable[[], str]] = {
    "root": _root,
    "kernel": lambda: f"{platform.release()} {platform.machine()}",
    "BTF": _btf,
    "BCC": _bcc,
    "program cache": cache.examine,
    "no lockdown": _no_lockdown,
    "kernel memory reads": _kernel_reads,
    "ring buffer": _ring_buffer,
    "tracefs": _tracefs,
    "kprobe": partial(attach.attempt, "kprobe"),
    "fentry": partial(attach.attempt, "fentry"),
    "tp_btf": partial(_tp_btf, "inet_sock_set_state"),
    "raw tp inet_sock_set_state": partial(_raw_tracepoint, "inet_sock_set_state"),
    "raw tp kfree_skb": partial(_raw_tracepoint, "kfree_skb"),
    "tracepoint count": _tracepoint_count,
    "membarrier": _membarrier,
    "raw tp tcp_probe": partial(_raw_tracepoint, "tcp_probe"),
    "raw tp sk_data_ready": partial(_raw_tracepoint, "sk_data_ready"),
    "tracepoint inet_sock_set_state": partial(_tracepoint, "sock/inet_sock_set_state"),
    "raw tp sys_enter": partial(_raw_tracepoint, "sys_enter"),
    "cgroup_skb": partial(_cgroup_program, ProgType.CGROUP_SKB, AttachType.CGROUP_INET_INGRESS),
    "sock_ops": partial(_cgroup_program, ProgType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS),
}
