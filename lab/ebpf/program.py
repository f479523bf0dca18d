"""A C file of `bpf/`, loaded and attached.

A program says everything in its source: which kernel members it reads (`FIELD`), where its functions are attached (their
names), and what an event looks like (the struct it submits to the ring `events`). Nothing is told twice.
"""

import os
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property, partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import finalize

from lab.arrays import Events
from lab.ebpf import attach
from lab.ebpf.attach import Function
from lab.ebpf.compiler import compile_source
from lab.ebpf.maps import Map
from lab.ebpf.ringbuf import Ring
from lab.ebpf.spec import ProgramSpec, dtype_of
from lab.errors import LabError, UnsupportedByKernel
from lab.linux.bpf import raw_tracepoint_test_run, recursion_misses
from lab.linux.grace_period import await_grace_period
from lab.linux.instance import Instance
from lab.paths import SOURCES

if TYPE_CHECKING:
    from lab.ebpf.interface import Device

_ROLES = ("__again", "__unaudited")  # bpf/include/lab.h
_EVENTS, _TOTALS, _WATCHED, _UNDER_WAY = "events", "totals", "watched", "under_way"  # maps that only some programs have


class Program:
    """A loaded program. What it tells comes through `ring` (None when it has no events), or as `take_totals`, or both.

    `attach_points` names the places it is attached to while it records, and at devices the mechanism too.
    """

    def __init__(self, source: Path, defines: Sequence[str] = (), maps: Mapping[str, Map] | None = None) -> None:
        """Compile and load a C file, with `defines` as further `-D` definitions; `maps` of another program take the place of its own.

        Raises `UnsupportedByKernel` when the kernel lacks something that it reads, or refuses it; `LabError` when the file does not
        compile.
        """
        Instance.current()
        self._name = source.name
        made = compile_source(source, defines)
        self._numbers = {event: number for number, event in enumerate(made.events)}
        try:
            self.maps = {spec.name: Map(spec) for spec in made.tables} | dict(maps or {})
        except OSError as error:
            raise UnsupportedByKernel(
                f"this kernel refuses a map of {source.name} ({error.strerror}): see lab doctor"
            ) from error
        self._loaded = [_load(code, self.maps, source.name) for code in made.functions]
        for function in self._loaded:
            finalize(self, os.close, function.fd)
        self.attach_points = list(dict.fromkeys(function.place for function in self._loaded))
        self.ring: Ring | None = None
        if events := self.maps.get(_EVENTS):
            self.ring = Ring(events.fd, events.spec.max_entries, partial(dtype_of, events.spec.value))
        self.has_totals = _TOTALS in self.maps
        self._under_way = [kept for name, kept in self.maps.items() if name.startswith(_UNDER_WAY)]

    def lost(self) -> int:
        """Events that were not delivered since the program was loaded, for whatever reason the kernel tells."""
        return self.without_room() + max(0, self.passed_over())

    def without_room(self) -> int:
        """Events that found no room in the ring or in the totals, since the program was loaded."""
        return self.maps["lost"].number()

    def passed_over(self) -> int:
        """How often the kernel has left a function out because one was already running on that CPU, and no second one made up for it.

        Only differences above 0 mean something: a second one that repeats the first, which is rare, counts against it.
        """
        missed = sum(recursion_misses(function.fd) for function in self._loaded if not function.again)
        rescued = self.maps.get("rescued")
        return missed - (rescued.number() if rescued else 0)

    @property
    def audited(self) -> dict[str, int]:
        """The raw tracepoints at which the program counts its runs, each with its number: its index in the map `runs`.

        Raises `LabError` when it does not count them at one of its raw tracepoints.
        """
        events = [it.event for it in self._loaded if it.audited]
        for event in events:
            if event not in self._numbers:
                raise LabError(
                    f"{self._name} does not count its runs at {event}: begin the function with first_run(EVENT({event}), ...) "
                    "or declare it with a macro that ends in _UNAUDITED (bpf/include/attach_points.h)"
                )
        return {event: self._numbers[event] for event in events}

    def left_out(self) -> list[int]:
        """How often the kernel says that it has left the program out at each of `audited`."""
        return [recursion_misses(it.fd) for it in self._loaded if it.audited]

    @cached_property
    def auditor(self) -> "Program":
        """What reads the program's runs beside the kernel's own count (lab/ebpf/audit.py)."""
        return Program(SOURCES / "audit.c", maps={"runs": self.maps["runs"]})

    @property
    def functions(self) -> list[str]:
        """Names of the loaded functions, in the order of the source: the place of each, and its role if it has one."""
        return [f"{function.place} {function.role}".strip() for function in self._loaded]

    @property
    def fds(self) -> list[int]:
        """File descriptors of the loaded functions, in the order of the source."""
        return [function.fd for function in self._loaded]

    @property
    def refusal(self) -> str | None:
        """Why this kernel has no place for one of the functions, None when it has one for each."""
        return next(filter(None, map(attach.refusal, self._loaded)), None)

    @property
    def needs_device(self) -> bool:
        """Tell whether it observes at network interfaces, which `attached` must be given then."""
        return any(function.on_device for function in self._loaded)

    def fire(self, event: str, *arguments: int, cpu: int | None = None) -> int:
        """Run the function at a raw tracepoint as if the event had come with these arguments; returns what it returned.

        With `cpu`, as if it had come there. The kernel refuses this for arguments whose types it knows (ON_TP_BTF).
        """
        (fd,) = (it.fd for it in self._loaded if it.audited and it.event == event)
        return raw_tracepoint_test_run(fd, *arguments, cpu=cpu)

    def take_totals(self) -> Events:
        """Take what the program has added up since the last call: its map `totals`, emptied, one row for each entry.

        Each row has the members of the key (without the epoch) and of the value, and is exact (`lab/ebpf/totals.py`).
        """
        from lab.ebpf.totals import take  # noqa: PLC0415 (with NumPy, a third of a live tool's start)

        return take(self.maps[_TOTALS], self.maps["epochs"])

    @contextmanager
    def attached(self, devices: "Sequence[Device]" = (), netns: Collection[int] = ()) -> Iterator[None]:
        """Attach every function of the program, those at TC and XDP to each device, and detach them all at the end.

        What it sees of sockets is limited to the network namespaces with these inode numbers, if any are given.
        """
        with ExitStack() as links:
            links.callback(self._forget_under_way)
            self._watch(netns)
            functions = sorted(self._loaded, key=lambda function: function.order)
            places = [place for function in functions for place in attach.attach(function, devices, links)]
            self.attach_points = list(dict.fromkeys(places))
            # Until all were attached, the first program at a point may have run without the second behind it. What it has told, and
            # what an earlier recording has left, is of no use.
            if noted := self.maps.get("noted"):
                noted.clear()
            if self.ring:
                self.ring.skip()
            if self.has_totals:
                self.maps[_TOTALS].clear()
            yield

    def _watch(self, netns: Collection[int]) -> None:
        if not (watched := self.maps.get(_WATCHED)):
            return
        room = watched.spec.value_size // 4
        if len(netns) > room:
            raise LabError(f"a program can be limited to {room} network namespaces, not to {len(netns)}: give fewer")
        # No place is left at 0 but where there is no limit: 0 is what the namespace of a packet without a device reads as.
        watched.write(struct.pack(f"={room}I", *islice(cycle(netns or (0,)), room)))

    def _forget_under_way(self) -> None:
        """Empty the maps in which a program remembers what has begun and is to end: detached, it misses the ends."""
        if self._under_way:
            await_grace_period()
        for begun in self._under_way:
            begun.clear()

    @classmethod
    @cache
    def load(cls, name: str, defines: tuple[str, ...] = ()) -> "Program":
        """Compile and load `bpf/<name>.c` once per process and set of `defines`."""
        return cls(SOURCES / f"{name}.c", defines)


def _load(code: ProgramSpec, maps: dict[str, Map], source: str) -> Function:
    """Load one of the program's functions; where it belongs is in its name."""
    instructions = bytearray(code.instructions)
    for position, name in code.maps:
        struct.pack_into("=i", instructions, position * 8 + 4, maps[name].fd)
    # A kernel function's own name may have two underscores in it, but not at its end.
    kind, _, event = code.name.removeprefix("on_").partition("__")
    event, _, role = event.rpartition("__") if event.endswith(_ROLES) else (event, "", "")
    try:
        fd = attach.load(kind, event, bytes(instructions))
    except OSError as error:
        raise UnsupportedByKernel(
            f"this kernel refuses the {attach.place(kind, event)} of {source} ({error.strerror}): see lab doctor"
        ) from error
    return Function(kind, event, fd, role)
