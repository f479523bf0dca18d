"""A C file of `bpf/`, compiled, loaded and attached. The only module that knows BCC.

A program says everything in its source: which kernel members it reads (`FIELD`), where its functions are attached (their
names), and what an event looks like (the struct it submits to the ring `events`). Nothing is told twice.
"""

import ctypes
import os
import platform
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lab import attach, headers
from lab.attach import Function
from lab.bpf_syscall import map_delete_batch, map_lookup_batch, raw_tracepoint_test_run, recursion_misses
from lab.btf import Btf
from lab.device import Device
from lab.errors import LabError, Refused
from lab.ring import Events, Ring
from lab.runs import Run
from lab.settle import settle

SOURCES = Path(__file__).parent.parent / "bpf"

_ROLES = ("__again", "__unaudited")  # bpf/lab.h
_RING_PAGES = re.compile(r"^BPF_RINGBUF_OUTPUT\(events, (\d+)\);", re.MULTILINE)
_TOTALS = re.compile(r"^BPF_HASH\(totals, ", re.MULTILINE)
_WATCHED = re.compile(r"^BPF_ARRAY\(watched, ", re.MULTILINE)
_UNDER_WAY = re.compile(r"^BPF_(?:HASH|TABLE)\(.*\b(under_way\w*), ", re.MULTILINE)
_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)
_MACRO = re.compile(r"^#define .*$", re.MULTILINE)
_FIELD = re.compile(r"\bFIELD\((\w+), ([\w, ]+)\)")
_ENUM = re.compile(r"\bENUM\((\w+), (\w+)\)")
_TRACEPOINT_ARGS = re.compile(r"\bTRACEPOINT_ARGS\((\w+)\)")
_EVENT = re.compile(r"\bEVENT\((\w+)\)")
_FUNCTION_ARGS = re.compile(r"\b(?:FUNCTION_ARGS|RETURNED)\((\w+)\)")


class Program:
    """A loaded program. What it tells comes through `ring` (None when it has no events), or as `take_totals`, or both.

    `attach_points` names the places it is attached to while it records, and at devices the mechanism too.
    """

    def __init__(self, source: Path, defines: Sequence[str] = ()) -> None:
        """Compile and load a C file, with `defines` as further `-D` definitions.

        Raises `Refused` when the kernel lacks something that it reads, or refuses it.
        """
        bcc = _import_bcc()
        text = _with_includes(source.read_text(), source.name)
        known, missing = _kernel_facts(_mentions(text))
        self._numbers = {event: number for number, event in enumerate(sorted(set(_EVENT.findall(_mentions(text)))))}
        known += [f"EVENT__{event}={number}" for event, number in self._numbers.items()]
        ways = [f"ATTACH_{way.upper()}={int(way == attach.way())}" for way in attach.WAYS]
        flags = [*headers.user_include_flags(), "-Wno-unused-function"]
        flags += [f"-D{define}" for define in (f"MACHINE_{platform.machine()}=1", *ways, *defines, *known)]
        with _header_tree():
            try:
                self._bpf = bcc.BPF(text=text.encode(), cflags=flags)
            except Exception as error:
                # BCC raises nothing narrower, and has printed the compiler's words itself.
                if type(error) is not Exception:
                    raise
                why = "; ".join(missing) or "see the messages above"
                raise Refused(f"{source.name} cannot be loaded on this kernel: {why}") from error
        self._loaded = _load_functions(bcc, self._bpf, source.name)
        self.attach_points = list(dict.fromkeys(function.place for function in self._loaded))
        self.ring: Ring | None = None
        if pages := _RING_PAGES.findall(text):
            events = self._bpf[b"events"]
            self.ring = Ring(events.map_fd, int(pages[0]) * os.sysconf("SC_PAGE_SIZE"), _event_dtype(events))
        self._watches = bool(_WATCHED.search(text))
        self.has_totals = bool(_TOTALS.search(text))
        self._under_way = []
        for name in _UNDER_WAY.findall(text):
            with suppress(KeyError):  # in a branch that the preprocessor has left out
                self._under_way.append(self._bpf[name.encode()])

    def lost(self) -> int:
        """Events that were not delivered, or found no room in the totals, since the program was loaded.

        Either the ring or the map was full, or the kernel left a function out because it was already running on that CPU and no
        second one made up for it. (A second one that repeated the first, which is rare, can hide one that was left out.)
        """
        return int(self._bpf[b"lost"][0].value) + max(0, self._missed() - int(sum(self._bpf[b"rescued"][0])))

    def runs(self) -> npt.NDArray[np.int64]:
        """How often each of `events` came to the program, counting the times that the kernel says it left it out."""
        audited = [function for function in self._loaded if function.audited]
        counts = [int(sum(self._bpf[b"runs"][self._numbers[it.event]])) + recursion_misses(it.fd) for it in audited]
        return np.array(counts, np.int64)

    @property
    def events(self) -> list[str]:
        """Names of the raw tracepoints that the program is attached to and counts its runs at."""
        return [function.event for function in self._loaded if function.audited]

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

    def fire(self, event: str, *arguments: int) -> int:
        """Run the function at a raw tracepoint as if the event had come with these arguments; returns what it returned."""
        (fd,) = (it.fd for it in self._loaded if it.audited and it.event == event)
        return raw_tracepoint_test_run(fd, *arguments)

    def take_totals(self) -> Events:
        """Take what the program has added up since the last call: its map `totals`, emptied, one row for each entry.

        Each row has the members of the key (without the epoch) and of the value. Exact: a new epoch begins for the program, and
        the old one is read when nothing can still be adding to it.
        """
        table = self._bpf[b"totals"]
        key, value = _struct_dtype(table.Key), _struct_dtype(table.Leaf)
        epochs = self._bpf[b"epochs"]
        epoch = epochs[0].value
        epochs[0] = ctypes.c_uint32(epoch + 1)
        settle()
        keys, values = map_lookup_batch(table.map_fd, key.itemsize, value.itemsize, table.max_entries)
        rows = np.frombuffer(keys, key)
        over = rows["epoch"] == epoch
        count = int(over.sum())
        if count:
            as_written = np.frombuffer(keys, np.uint8).reshape(-1, key.itemsize)[over]
            map_delete_batch(table.map_fd, as_written.tobytes(), count)
        parts = (rows[over], np.frombuffer(values, value)[over])
        columns = {name: part[name] for part in parts for name in part.dtype.names or () if name != "epoch"}
        totals = np.zeros(count, [(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
        for name, column in columns.items():
            totals[name] = column
        return totals

    def _missed(self) -> int:
        return sum(recursion_misses(function.fd) for function in self._loaded if not function.again)

    @contextmanager
    def attached(self, devices: Sequence[Device] = (), netns: Collection[int] = ()) -> Iterator[None]:
        """Attach every function of the program, those at TC and XDP to each device, and detach them all at the end.

        What it sees of sockets is limited to the network namespaces with these inode numbers, if any are given.
        """
        with ExitStack() as links:
            links.callback(self._forget_under_way)
            self._watch(netns)
            places = [place for function in self._loaded for place in attach.attach(function, devices, links)]
            self.attach_points = list(dict.fromkeys(places))
            # Until all were attached, the first program at a point may have run without the second behind it.
            self._bpf[b"noted"].clear()
            yield

    def _watch(self, netns: Collection[int]) -> None:
        if not self._watches:
            return
        table = self._bpf[b"watched"]
        watched = table.Leaf()
        room = len(watched.netns)
        if len(netns) > room:
            raise LabError(f"a program can be limited to {room} network namespaces, not to {len(netns)}: give fewer")
        for number, inode in enumerate(netns):
            watched.netns[number] = inode
        table[0] = watched

    def _forget_under_way(self) -> None:
        """Empty the maps in which a program remembers what has begun and is to end: detached, it misses the ends."""
        if self._under_way:
            settle()
        for table in self._under_way:
            table.clear()

    @classmethod
    @cache
    def load(cls, name: str, defines: tuple[str, ...] = ()) -> "Program":
        """Compile and load `bpf/<name>.c` once per process and set of `defines`."""
        return cls(SOURCES / f"{name}.c", defines)


def _import_bcc() -> Any:
    try:
        import bcc  # noqa: PLC0415 (a fifth of a second that `lab --help` need not wait for)
    except ImportError:
        raise LabError(
            "Python's bcc is missing: install the package python3-bpfcc and use an environment made with "
            "--system-site-packages (make setup does both)"
        ) from None
    return bcc


@contextmanager
def _header_tree() -> Iterator[None]:
    """BCC asks the environment where kernel headers are."""
    tree = Run.current().path / "headers"
    headers.write_tree(tree)
    before = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(tree)
    try:
        yield
    finally:
        del os.environ["BCC_KERNEL_SOURCE"]
        if before is not None:
            os.environ["BCC_KERNEL_SOURCE"] = before


def _with_includes(text: str, name: str, seen: set[str] | None = None) -> str:
    """Put the lab's own headers into the text where they are first included.

    BCC rewrites map operations in the main text only, so that is where they have to be. `#line` keeps messages true.
    """
    seen = set() if seen is None else seen

    def insert(found: re.Match[str]) -> str:
        header, line = found[1], text.count("\n", 0, found.start()) + 2
        if header in seen:
            return ""
        seen.add(header)
        inner = _with_includes((SOURCES / header).read_text().replace("#pragma once", ""), header, seen)
        return f'#line 1 "{header}"\n{inner}\n#line {line} "{name}"'

    return _INCLUDE.sub(insert, text)


def _mentions(text: str) -> str:
    """Return the text without what defines the macros that mention the kernel's types."""
    return _MACRO.sub("", text)


def _kernel_facts(text: str) -> tuple[list[str], list[str]]:
    """Look up each kernel member, enumerator and tracepoint that the source mentions.

    Returns definitions for the compiler, and a sentence for each that this kernel lacks: those may stand in a branch that
    the preprocessor leaves out here, so only a failed compilation makes them an error.
    """
    btf = Btf.of_kernel()
    lookups: list[Callable[[], list[str]]] = [
        *(partial(_field, btf, *found) for found in sorted(set(_FIELD.findall(text)))),
        *(partial(_enum, btf, *found) for found in sorted(set(_ENUM.findall(text)))),
        *(partial(_tracepoint_args, btf, event) for event in sorted(set(_TRACEPOINT_ARGS.findall(text)))),
        *(partial(_function_args, btf, name) for name in sorted(set(_FUNCTION_ARGS.findall(text)))),
    ]
    known: list[str] = []
    missing: list[str] = []
    for look_up in lookups:
        try:
            known += look_up()
        except LabError as error:
            missing.append(str(error))
    return known, missing


def _field(btf: Btf, type_name: str, members: str) -> list[str]:
    path = members.replace(" ", "").split(",")
    field, name = btf.field(type_name, ".".join(path)), "__".join([type_name, *path])
    if field.bit_size:
        raise LabError(
            f"`{type_name}.{'.'.join(path)}` is a bitfield: a program reads its unit and takes the bits itself"
        )
    return [f"OFFSET__{name}={field.offset}", f"SIZE__{name}={field.size}"]


def _enum(btf: Btf, enum: str, name: str) -> list[str]:
    return [f"ENUM__{enum}__{name}={btf.enumerator(enum, name)}"]


def _tracepoint_args(btf: Btf, event: str) -> list[str]:
    return [f"TRACEPOINT_ARGS__{event}={btf.tracepoint_args(event)}"]


def _function_args(btf: Btf, name: str) -> list[str]:
    return [f"FUNCTION_ARGS__{name}={btf.function_args(name)}"]


def _load_functions(bcc: Any, bpf: Any, source: str) -> list[Function]:
    """Load each of the program's functions; where it belongs is in its name."""
    functions = []
    for number in range(bcc.lib.bpf_num_functions(bpf.module)):
        name = bcc.lib.bpf_function_name(bpf.module, number)
        size = bcc.lib.bpf_function_size(bpf.module, name)
        instructions = ctypes.string_at(bcc.lib.bpf_function_start(bpf.module, name), size)
        # A kernel function's own name may have two underscores in it, but not at its end.
        kind, _, event = name.decode().removeprefix("on_").partition("__")
        event, _, role = event.rpartition("__") if event.endswith(_ROLES) else (event, "", "")
        try:
            fd = attach.load(kind, event, instructions)
        except OSError as error:
            raise Refused(
                f"this kernel refuses the {kind}:{event} of {source} ({error.strerror}): see lab doctor"
            ) from error
        functions.append(Function(kind, event, fd, role))
    return functions


def _event_dtype(table: Any) -> np.dtype[np.void]:
    return _struct_dtype(type(table.event(ctypes.create_string_buffer(1 << 12))))


def _struct_dtype(struct: Any) -> np.dtype[np.void]:
    """NumPy's view of a C struct that BCC has turned into a class; text is of `char[]`."""
    names = [name for name, _ in struct._fields_]
    kinds = [kind for _, kind in struct._fields_]
    texts = [getattr(kind, "_type_", None) is ctypes.c_char for kind in kinds]
    return np.dtype(
        {
            "names": names,
            "formats": [
                f"S{ctypes.sizeof(kind)}" if text else np.dtype(kind) for kind, text in zip(kinds, texts, strict=True)
            ],
            "offsets": [getattr(struct, name).offset for name in names],
            "itemsize": ctypes.sizeof(struct),
        }
    )
