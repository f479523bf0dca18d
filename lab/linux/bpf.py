"""Thin wrappers of bpf(2) and perf_event_open(2): file descriptors in, file descriptors out.

What lives here: one function per call, with the kernel's names, arguments and errors. What does not: compiling, and any
decision about what to load or attach. The caller closes each file descriptor that it gets (`syscalls.owned` does). A
refusal is an `OSError` with the kernel's errno. Layouts and numbers: `include/uapi/linux/bpf.h` and `perf_event.h`. To
add a command, pass its layout to `_bpf` and read the command's results from the returned fields.
"""

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

from lab.linux.syscalls import syscall

RINGBUF = 27  # BPF_MAP_TYPE_RINGBUF
ALLOW_MULTI = 1 << 1  # BPF_F_ALLOW_MULTI: attach in addition to the programs that are there
_SET_BPF = 0x40042408  # PERF_EVENT_IOC_SET_BPF
_OBJ_GET_INFO_BY_FD = 15
# struct bpf_prog_info: name, run_time_ns, run_cnt and recursion_misses (always 0 before Linux 5.12).
_RUNS_IN_INFO = struct.Struct("=64x16s112x3Q")
_VERIFIED_IN_INFO = struct.Struct("=216xI")  # verified_insns, the member after them (0 before Linux 5.16)
_XDP_LINK_INFO = struct.Struct("=III4xI4x")  # struct bpf_link_info: type, id, prog_id, xdp.ifindex
_LINK_TYPE_XDP = 6
_ENABLE_STATS = 32
_TEST_RUN_ON_CPU = 1  # BPF_F_TEST_RUN_ON_CPU
_ROOM_TO_GROW = 256  # bytes; a program cannot add more to a frame (XDP_PACKET_HEADROOM)
_LOG_SIZE = 1 << 20  # bytes of verifier log; the error text is its last line


class ProgType(IntEnum):
    """The members of `enum bpf_prog_type` that the lab uses."""

    KPROBE = 2
    SCHED_CLS = 3
    TRACEPOINT = 5
    XDP = 6
    CGROUP_SKB = 8
    SOCK_OPS = 13
    RAW_TRACEPOINT = 17
    TRACING = 26


class AttachType(IntEnum):
    """The members of `enum bpf_attach_type` that the lab uses."""

    CGROUP_INET_INGRESS = 0
    CGROUP_INET_EGRESS = 1
    CGROUP_SOCK_OPS = 3
    TRACE_RAW_TP = 23
    TRACE_FENTRY = 24
    TRACE_FEXIT = 25
    XDP = 37
    TCX_INGRESS = 46
    TCX_EGRESS = 47


def instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """Encode one BPF instruction (`struct bpf_insn`)."""
    return struct.pack("=BBhi", code, src << 4 | dst, offset, value)


def returning(value: int) -> bytes:
    """Encode the smallest program: `r0 = value; exit`."""
    return instruction(0xB7, value=value) + instruction(0x95)


RETURN_ZERO = returning(0)


def _bpf(command: int, layout: str, *fields: int | bytes) -> tuple[int, tuple[Any, ...]]:
    """Make one bpf(2) call and return its result and the fields after the call: some commands write results there.

    `layout` (for the module `struct`) and `fields` are this command's part of `union bpf_attr`.
    """
    packed = struct.pack(layout, *fields)
    attr = ctypes.create_string_buffer(packed, len(packed))
    result = syscall("bpf", command, attr, len(attr))
    return result, struct.unpack(layout, attr.raw)


def prog_load(
    prog_type: int,
    insns: bytes,
    *,
    license: str = "GPL",  # noqa: A002 (the kernel's name for it)
    expected_attach_type: int = 0,
    attach_btf_id: int = 0,
    name: str = "lab_trial",
) -> int:
    """Load a program and return its fd. The text of the `OSError` is the last line of the verifier's log."""
    code = ctypes.create_string_buffer(insns, len(insns))
    licence = ctypes.create_string_buffer(license.encode())

    def load(log: "ctypes.Array[ctypes.c_char] | None" = None) -> int:
        log_level, log_size, log_address = (1, len(log), ctypes.addressof(log)) if log else (0, 0, 0)
        program = (prog_type, len(insns) // 8, ctypes.addressof(code), ctypes.addressof(licence))
        target = (name.encode(), 0, expected_attach_type, 0, 0, 0, 0, 0, 0, 0, attach_btf_id)
        return _bpf(5, "IIQQIIQII16sIIIIQIIQII", *program, log_level, log_size, log_address, 0, 0, *target)[0]

    try:
        return load()
    except OSError as refusal:
        log = ctypes.create_string_buffer(_LOG_SIZE)
        with suppress(OSError):
            return load(log)  # again, for the reason: a log at the first attempt would slow down every load
        # The log ends with statistics ("processed 2 insns ..."), which are not the reason.
        lines = [line for line in log.value.decode(errors="replace").splitlines() if line[:10] != "processed "]
        raise OSError(refusal.errno, lines[-1] if lines else refusal.strerror) from None


def map_create(
    map_type: int,
    key_size: int,
    value_size: int,
    max_entries: int,
    *,
    flags: int = 0,
    inner_fd: int = 0,
    name: str = "lab_trial",
) -> int:
    """Create a map and return its fd. Sizes are in bytes, and so is `max_entries` of a ring buffer.

    `inner_fd` is a map like those that a map of maps contains.
    """
    sizes = (key_size, value_size, max_entries)
    return _bpf(0, "IIIIIII16s", map_type, *sizes, flags, inner_fd, 0, name.encode())[0]


def map_lookup_elem(map_fd: int, key: bytes, value_size: int) -> bytes:
    """Return one value; `ENOENT` without an entry. `value_size` is in bytes, of a per-CPU map for all CPUs together."""
    value = ctypes.create_string_buffer(value_size)
    _map_elem(1, map_fd, key, value)
    return value.raw


def map_update_elem(map_fd: int, key: bytes, value: bytes) -> None:
    """Add or replace one value; of a per-CPU map, the values of all CPUs."""
    _map_elem(2, map_fd, key, ctypes.create_string_buffer(value, len(value)))


def _map_elem(command: int, map_fd: int, key: bytes, value: "ctypes.Array[ctypes.c_char]") -> None:
    wanted = ctypes.create_string_buffer(key, len(key))
    _bpf(command, "IQQQ", map_fd, ctypes.addressof(wanted), ctypes.addressof(value), 0)


def map_lookup_batch(map_fd: int, key_size: int, value_size: int, max_entries: int) -> tuple[bytes, bytes]:
    """Return a whole hash map: all keys in a row, and all values in a row. Sizes are in bytes. Linux 5.6 or later."""
    keys = ctypes.create_string_buffer(key_size * max_entries)
    values = ctypes.create_string_buffer(value_size * max_entries)
    position = ctypes.create_string_buffer(max(key_size, 8))
    layout = "QQQQIIQQ"
    batch = (ctypes.addressof(position), ctypes.addressof(keys), ctypes.addressof(values), max_entries, map_fd)
    attr = ctypes.create_string_buffer(struct.pack(layout, 0, *batch, 0, 0), struct.calcsize(layout))
    with suppress(FileNotFoundError):  # ENOENT: the end of the map
        syscall("bpf", 24, attr, len(attr))
    count = struct.unpack(layout, attr.raw)[4]
    return keys.raw[: key_size * count], values.raw[: value_size * count]


def map_delete_batch(map_fd: int, keys: bytes, count: int) -> None:
    """Delete `count` entries of a hash map; `keys` are in a row. Linux 5.6 or later."""
    buffer = ctypes.create_string_buffer(keys, len(keys))
    _bpf(27, "QQQQIIQQ", 0, 0, ctypes.addressof(buffer), 0, count, map_fd, 0, 0)


def link_create(prog_fd: int, target: int, attach_type: int, flags: int = 0) -> int:
    """Attach to a target (cgroup fd, or ifindex in this thread's netns) until the returned fd is closed."""
    return _bpf(28, "IIII", prog_fd, target, attach_type, flags)[0]


def raw_tracepoint_open(name: str | None, prog_fd: int) -> int:
    """Attach to a raw tracepoint, or without `name` to the program's BTF target, until the returned fd is closed."""
    buffer = ctypes.create_string_buffer(name.encode()) if name else None
    return _bpf(17, "QII", ctypes.addressof(buffer) if buffer else 0, prog_fd, 0)[0]


def prog_attach(target_fd: int, prog_fd: int, attach_type: int, flags: int = 0) -> None:
    """Attach to a cgroup until `prog_detach` or the end of the cgroup. The end of this process does not detach it."""
    _bpf(8, "IIII", target_fd, prog_fd, attach_type, flags)


def prog_detach(target_fd: int, prog_fd: int, attach_type: int) -> None:
    """Undo `prog_attach`."""
    _bpf(9, "IIII", target_fd, prog_fd, attach_type, 0)


def raw_tracepoint_test_run(prog_fd: int, *arguments: int, cpu: int | None = None) -> int:
    """Run a raw tracepoint program with these arguments and return its return value. Linux 5.10 or later.

    Give at least as many arguments as the program reads. With `cpu` the kernel runs the program on that CPU: in an
    interrupt, unless the caller is on that CPU.
    """
    packed = struct.pack(f"={len(arguments)}Q", *arguments)
    context = ctypes.create_string_buffer(packed, len(packed))
    on_cpu = (0, 0) if cpu is None else (_TEST_RUN_ON_CPU, cpu)
    where = (0, 0, len(packed), 0, ctypes.addressof(context) if packed else 0, 0, *on_cpu)
    _, fields = _bpf(10, "IIIIQQIIIIQQII", prog_fd, 0, 0, 0, 0, 0, *where)
    return int(fields[1])


def prog_test_run(prog_fd: int, data: bytes, *, repeat: int = 1) -> tuple[int, bytes]:
    """Run an XDP or TC program on the frame `data`; return its return value and the frame after the run.

    `EINVAL` refuses a frame that is shorter than an Ethernet header or does not fit in a page (BPF_PROG_TEST_RUN).
    """
    frame = ctypes.create_string_buffer(data, len(data))
    out = ctypes.create_string_buffer(len(data) + _ROOM_TO_GROW)
    addresses = (ctypes.addressof(frame), ctypes.addressof(out))
    _, fields = _bpf(10, "IIIIQQIIIIQQ", prog_fd, 0, len(data), len(out), *addresses, repeat, 0, 0, 0, 0, 0)
    retval, size_out = fields[1], fields[3]
    return retval, out.raw[:size_out]


def prog_ids() -> set[int]:
    """Return the ids of all programs on this machine."""
    found, prog_id = set[int](), 0
    while True:
        try:
            _, (_, prog_id, _) = _bpf(11, "III", prog_id, 0, 0)
        except FileNotFoundError:  # ENOENT: the end of the list
            return found
        found.add(prog_id)


class Runs(NamedTuple):
    """The kernel's counters of one loaded program. `time_ns` and `number` (of runs) need `enable_stats`."""

    name: str
    time_ns: int
    number: int
    recursion_misses: int


def prog_runs(prog_fd: int) -> Runs:
    """Return the kernel's counters of a program since it was loaded."""
    info = ctypes.create_string_buffer(_RUNS_IN_INFO.size)
    _bpf(_OBJ_GET_INFO_BY_FD, "=IIQ", prog_fd, len(info), ctypes.addressof(info))
    name, *counts = _RUNS_IN_INFO.unpack(info.raw)
    return Runs(name.rstrip(b"\0").decode(), *counts)


def verified_instructions(prog_fd: int) -> int:
    """Return how many instructions the verifier followed when it loaded a program, 0 before Linux 5.16."""
    info = ctypes.create_string_buffer(_VERIFIED_IN_INFO.size)
    _bpf(_OBJ_GET_INFO_BY_FD, "=IIQ", prog_fd, len(info), ctypes.addressof(info))
    return int(_VERIFIED_IN_INFO.unpack(info.raw)[0])


def recursion_misses(prog_fd: int) -> int:
    """Return how often the kernel did not run a program because the program was already running on that CPU."""
    return prog_runs(prog_fd).recursion_misses


def enable_stats() -> int:
    """Make the kernel count and time the runs of all programs until the returned fd is closed. Linux 5.8 or later.

    The end of the process closes the fd. The statistics stay on while another fd of BPF_ENABLE_STATS is open.
    """
    return _bpf(_ENABLE_STATS, "=I", 0)[0]


def prog_open(prog_id: int) -> int:
    """Return an fd of the loaded program with this id. `FileNotFoundError` when there is none."""
    return _bpf(13, "III", prog_id, 0, 0)[0]


def prog_exists(prog_id: int) -> bool:
    """Return true if a program with this id is loaded."""
    try:
        os.close(prog_open(prog_id))
    except FileNotFoundError:
        return False
    return True


def xdp_link(prog_id: int, ifindex: int) -> int | None:
    """Return the id of the BPF link by which an XDP program is attached to an interface, None if there is none."""
    link_id = 0
    while True:
        try:
            _, (_, link_id, _) = _bpf(31, "III", link_id, 0, 0)
        except FileNotFoundError:  # ENOENT: the end of the list
            return None
        try:
            link, _ = _bpf(30, "III", link_id, 0, 0)
        except FileNotFoundError:  # removed after the listing
            continue
        try:
            info = ctypes.create_string_buffer(_XDP_LINK_INFO.size)
            _bpf(_OBJ_GET_INFO_BY_FD, "=IIQ", link, len(info), ctypes.addressof(info))
        finally:
            os.close(link)
        if _XDP_LINK_INFO.unpack(info.raw) == (_LINK_TYPE_XDP, link_id, prog_id, ifindex):
            return link_id


def prog_ids_of_process(pid: int) -> set[int]:
    """Return the ids of the programs that a process holds by fds of programs or links. Source: proc(5)."""
    return {fields["prog_id"] for fields in _fdinfo(pid) if "prog_id" in fields}


def map_bytes_of_process(pid: int) -> int:
    """Return the kernel memory of the maps that a process holds by fds, each counted once. Source: proc(5)."""
    return sum({fields["map_id"]: fields["memlock"] for fields in _fdinfo(pid) if "map_id" in fields}.values())


def _fdinfo(pid: int) -> Iterator[dict[str, int]]:
    """Yield the decimal fields of each open file of a process."""
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed after the listing
            words = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
            yield {pair[0].rstrip(":"): int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdecimal()}


def perf_event_open(
    event_type: int, config: int, function: str | None = None, *, cpu: int = 0, counting: bool = False
) -> int:
    """Open a perf event on one CPU, disabled or `counting`, and return its fd. A kprobe event probes `function`."""
    name = ctypes.create_string_buffer(function.encode()) if function else None
    layout, disabled, close_on_exec = "IIQQQQQIIQQ", int(not counting), 8
    size, address = struct.calcsize(layout), ctypes.addressof(name) if name else 0
    packed = struct.pack(layout, event_type, size, config, 0, 0, 0, disabled, 0, 0, address, 0)
    attr = ctypes.create_string_buffer(packed, size)
    return syscall("perf_event_open", attr, -1, cpu, -1, close_on_exec)


def perf_event_set_bpf(event_fd: int, prog_fd: int) -> None:
    """Run a program at each occurrence of the event, until the event's fd is closed."""
    fcntl.ioctl(event_fd, _SET_BPF, prog_fd)
