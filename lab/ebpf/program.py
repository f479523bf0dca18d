"""A C file of `bpf/`, loaded and attached.

The source alone describes the program: the kernel members that it reads (`FIELD`), the attach points (the names of its
functions) and the layout of an event (the struct that it submits to the ring `events`). What does not live here:
compiling (`compiler.py`), and the kinds of attach points (`attach.py`).
"""

import errno
import os
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import finalize

from lab import parallel
from lab.arrays import Events
from lab.choice import EVERYTHING, Choice
from lab.ebpf import attach
from lab.ebpf.attach import Function
from lab.ebpf.choice import write
from lab.ebpf.compiler import compile_source
from lab.ebpf.maps import Map, give_each_cpu
from lab.ebpf.ringbuf import Rings
from lab.ebpf.source import kinds, text_of
from lab.ebpf.spec import CollectionSpec, MapSpec, ProgramSpec, dtype_of
from lab.errors import LabError, UnsupportedByKernel
from lab.linux import cpus, privileges
from lab.linux.bpf import raw_tracepoint_test_run, recursion_misses
from lab.linux.grace_period import await_grace_period
from lab.linux.instance import Instance
from lab.paths import SOURCES

if TYPE_CHECKING:
    from lab.ebpf.interface import Device

LIVE_RINGS = 16 << 20
"""Most bytes in the rings of a live tool. Each MiB takes 0.4 ms of its start; recordings under load need more."""
_MOST_RINGS = 16  # more processors share them: each drain looks at all rings
_LEAST_RING = 4 << 20  # if the program has as much: 50 ms of 700,000 records of 112 bytes a second, from one processor

_ROLES = ("__again", "__unaudited")  # bpf/include/attach_points.h
_EVENTS, _RINGS, _TOTALS, _UNDER_WAY = "events", "rings", "totals", "under_way"  # maps that not every program has
_PID_VIEWER = "pid_viewer"  # bpf/include/task.h
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO in include/linux/proc_ns.h


class Program:
    """A loaded program. It delivers events through `ring` (None without events), totals through `take_totals`, or both.

    `attach_points` are the names of its attach points. At a device the name includes the mode or mechanism, after
    `attached`.
    """

    def __init__(
        self,
        source: Path,
        defines: Sequence[str] = (),
        maps: Mapping[str, Map] | None = None,
        most_bytes: int = sys.maxsize,
    ) -> None:
        """Compile and load a C file.

        `defines` are additional `-D` definitions; `maps` (by name) of another program replace the program's own. The rings
        have at most `most_bytes`, but each what a busy processor needs.

        Raises `UnsupportedByKernel` when the kernel lacks a member that the program reads or refuses the program, and
        `LabError` when the file does not compile, and without the capabilities that the program takes.
        """
        self._name = source.name
        compiled = _compiled(source, defines)
        self._numbers = {event: number for number, event in enumerate(compiled.events)}
        specs = {spec.name: spec for spec in compiled.tables}
        events, chosen_by_cpu = specs.pop(_EVENTS, None), specs.pop(_RINGS, None)
        rings = ring_specs(events, len(cpus.online()) if chosen_by_cpu else 1, most_bytes) if events else []
        try:
            tables = parallel.each(Map, [*specs.values(), *rings])
            self._rings = tables[len(specs) :]
            if chosen_by_cpu:
                tables.append(Map(chosen_by_cpu, self._rings[0]))
        except OSError as error:
            raise UnsupportedByKernel.refusal(f"a map of {source.name}", error) from error
        self.maps = {table.spec.name: table for table in tables} | dict(maps or {})
        if viewer := self.maps.get(_PID_VIEWER):
            viewer.write(struct.pack("=II", *_pid_namespace()))
        # The verifier takes most of the time of a start, and each program can have a processor of its own.
        load: Callable[[], list[Function]] = partial(parallel.each, self._load, compiled.functions)
        self._loaded, _ = parallel.each(lambda work: work(), [load, self._give_rings])
        self.attach_points = list(dict.fromkeys(function.place for function in self._loaded))
        self.ring: Rings | None = None
        if events:
            fds, size = [it.fd for it in self._rings], rings[0].max_entries
            self.ring = Rings(fds, size, partial(dtype_of, events.value))
        self.has_totals = _TOTALS in self.maps
        self._under_way = [it for name, it in self.maps.items() if name.startswith(_UNDER_WAY)]

    def _give_rings(self) -> list[Function]:
        """Give each processor its ring, which waits for the kernel: meanwhile programs are loaded."""
        if _RINGS in self.maps:
            give_each_cpu(self.maps[_RINGS], self._rings)
        return []

    def _load(self, code: ProgramSpec) -> Function:
        """Load one function of the program."""
        instructions = bytearray(code.instructions)
        for position, name in code.maps:
            struct.pack_into("=i", instructions, position * 8 + 4, self.maps[name].fd)
        kind, event, role = _point(code)
        try:
            fd = attach.load(kind, event, bytes(instructions))
        except OSError as error:
            what = f"the {attach.place(kind, event)} of {self._name}"
            if error.errno in (errno.EPERM, errno.EACCES):  # EACCES: the verifier
                privileges.require(what, "PERFMON")
            raise UnsupportedByKernel.refusal(what, error) from error
        finalize(self, os.close, fd)
        return Function(kind, event, fd, role)

    def lost(self) -> int:
        """Events without room, and those withheld by recursion, since the program was loaded."""
        return self.without_room() + max(0, self.withheld_by_recursion())

    def without_room(self) -> int:
        """Events that found no room in the ring or in the totals, since the program was loaded."""
        return self.maps["lost"].number()

    def withheld_by_recursion(self) -> int:
        """Return the number of runs that the kernel withheld because a program was already running on that CPU.

        Runs that a second program made up for do not count. Use differences above 0 only: a second program that repeats
        an event of the first, which is rare, reduces the number.
        """
        missed = sum(recursion_misses(function.fd) for function in self._loaded if not function.again)
        rescued = self.maps.get("rescued")
        return missed - (rescued.number() if rescued else 0)

    @property
    def audited(self) -> dict[str, int]:
        """The raw tracepoints at which the program counts its runs, each with its index in the map `runs`.

        Raises `LabError` when a function at a raw tracepoint has to count its runs and does not.
        """
        events = [it.event for it in self._loaded if it.audited]
        for event in events:
            if event not in self._numbers:
                raise LabError(
                    f"{self._name} does not count its runs at {event}: "
                    f"start the function with first_run(EVENT({event}), ...), or declare it with a macro "
                    "that ends in _UNAUDITED (bpf/include/attach_points.h)"
                )
        return {event: self._numbers[event] for event in events}

    def recursion_misses(self) -> list[int]:
        """Return the kernel's count of runs withheld by recursion, for each tracepoint of `audited`."""
        return [recursion_misses(it.fd) for it in self._loaded if it.audited]

    @cached_property
    def auditor(self) -> "Program":
        """The program that compares this program's runs with the kernel's hits (`audit.py`)."""
        return Program(SOURCES / "audit.c", maps={"runs": self.maps["runs"]})

    @property
    def functions(self) -> list[str]:
        """Attach points of the loaded functions, each with its role if there is one, in the order of the source."""
        return [f"{function.place} {function.role}".strip() for function in self._loaded]

    @property
    def fds(self) -> list[int]:
        """File descriptors of the loaded functions, in the order of the source."""
        return [function.fd for function in self._loaded]

    @property
    def again(self) -> list[bool]:
        """Whether each loaded function is a second program, in the order of the source."""
        return [function.again for function in self._loaded]

    @property
    def refusal(self) -> str | None:
        """Why this kernel refuses to attach one of the functions, None if it does not."""
        return next(filter(None, map(attach.refusal, self._loaded)), None)

    def fire(self, event: str, *arguments: int, cpu: int | None = None) -> int:
        """Run the function at a raw tracepoint with these arguments and return its return value.

        With `cpu` the function runs there. The kernel refuses functions whose arguments are typed (ON_TP_BTF).
        """
        (fd,) = (it.fd for it in self._loaded if it.audited and it.event == event)
        return raw_tracepoint_test_run(fd, *arguments, cpu=cpu)

    def take_totals(self) -> Events:
        """Return the totals since the last call, exactly (`totals.py`): one row for each entry of the map `totals`.

        A row has the members of the key (without `epoch`) and of the value.
        """
        from lab.ebpf.totals import take  # noqa: PLC0415 (with NumPy, a third of a live tool's start)

        return take(self.maps[_TOTALS], self.maps["epochs"])

    @contextmanager
    def attached(self, devices: "Sequence[Device]" = (), choice: Choice = EVERYTHING) -> Iterator[None]:
        """Attach every function, those at TC and XDP to each device, and detach all at the end of the block.

        `choice` limits what the program observes. Raises `LabError` if it has too many limits.
        """
        with ExitStack() as links:
            links.callback(self._forget_under_way)
            write(choice, self.maps)
            functions = sorted(self._loaded, key=lambda function: function.order)
            places = [place for function in functions for place in attach.attach(function, devices, links)]
            self.attach_points = list(dict.fromkeys(places))
            # Discard what an earlier recording left, and what came before all functions were attached: the first
            # program at an event may have run without the second.
            if noted := self.maps.get("noted"):
                noted.clear()
            if self.ring:
                self.ring.skip()
            if self.has_totals:
                self.maps[_TOTALS].clear()
            yield

    def _forget_under_way(self) -> None:
        """Empty the maps of operations under way: the detached program does not see their ends."""
        if self._under_way:
            await_grace_period()
        for operations in self._under_way:
            operations.clear()

    @classmethod
    @cache
    def load(cls, name: str, defines: tuple[str, ...] = ()) -> "Program":
        """Return the program `bpf/<name>.c`, loaded once per process and set of `defines`."""
        return cls(SOURCES / f"{name}.c", defines)

    @classmethod
    def live(cls, name: str, defines: tuple[str, ...] = ()) -> "Program":
        """Return the program `bpf/<name>.c` for a live tool, whose rings are smaller (`LIVE_RINGS`)."""
        return cls(SOURCES / f"{name}.c", defines, most_bytes=LIVE_RINGS)


def _compiled(source: Path, defines: Sequence[str]) -> CollectionSpec:
    what = f"the probe {source.stem}"
    if privileges.missing("BPF"):  # the compiler creates the maps
        privileges.require(what, *attach.capabilities(kinds(text_of(source))))
    Instance.current()
    compiled = compile_source(source, defines)
    privileges.require(what, *attach.capabilities(_point(code)[0] for code in compiled.functions))
    return compiled


def ring_specs(events: MapSpec, processors: int, most_bytes: int) -> list[MapSpec]:
    """Return the rings of a program for this number of processors. They share the size that the source gives.

    A ring has no less than `_LEAST_RING`, if the source gives as much.
    """
    number = min(processors, _MOST_RINGS)
    whole = min(events.max_entries, most_bytes)
    share = 1 << (whole // number).bit_length() - 1  # the size of a ring is a power of two
    return [events._replace(max_entries=max(share, min(whole, _LEAST_RING)))] * number


def _pid_namespace() -> tuple[int, int]:
    """Return inode number and depth of this process's PID namespace; 0 and 0 for the initial one."""
    inode = Path("/proc/self/ns/pid").stat().st_ino
    name = "pid_namespace"
    return (0, 0) if inode == _INITIAL_PID_NAMESPACE else (inode, Program.load(name).fire(name))


def _point(code: ProgramSpec) -> tuple[str, str, str]:
    """Return kind, event and role of a function's attach point, which its name says."""
    kind, _, event = code.name.removeprefix("on_").partition("__")
    # The name of a kernel function may contain two underscores, but not at its end.
    event, _, role = event.rpartition("__") if event.endswith(_ROLES) else (event, "", "")
    return kind, event, role
