"""A C file of `bpf/`, compiled, loaded and attached. The only module that knows BCC.

A program says everything in its source: which kernel members it reads (`FIELD`), where its functions are attached (their
names), and what an event looks like (the struct it submits to the ring `events`). Nothing is told twice.
"""

import ctypes
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lab import headers
from lab.bpf_syscall import raw_tracepoint_open, recursion_misses
from lab.btf import Btf
from lab.errors import LabError
from lab.ring import Ring
from lab.runs import Run

SOURCES = Path(__file__).parent.parent / "bpf"

_COUNTERS = ("RUNS", "RESCUED")  # enum counter in bpf/lab.h
_RING_PAGES = re.compile(r"^BPF_RINGBUF_OUTPUT\(events, (\d+)\);", re.MULTILINE)
_INCLUDE = re.compile(r'^#include "([\w.]+)"', re.MULTILINE)
_MACRO = re.compile(r"^#define .*$", re.MULTILINE)
_FIELD = re.compile(r"\bFIELD\((\w+), ([\w, ]+)\)")
_ENUM = re.compile(r"\bENUM\((\w+), (\w+)\)")
_TRACEPOINT_ARGS = re.compile(r"\bTRACEPOINT_ARGS\((\w+)\)")


class _Function(NamedTuple):
    """A loaded BPF function: what kind of attach point it belongs to, at which event, and its file descriptor."""

    kind: str
    event: str
    fd: int
    again: bool

    @property
    def place(self) -> str:
        return f"{self.kind}:{self.event}"


class Program:
    """A loaded program with its ring. `attach_points` names the places it is attached to while it records."""

    def __init__(self, source: Path, defines: Sequence[str] = ()) -> None:
        """Compile and load a C file. Raises `LabError` when the kernel lacks something it reads, or refuses it."""
        bcc = _import_bcc()
        text = source.read_text()
        known, missing = _kernel_facts(text)
        flags = [f"-I{SOURCES}", *headers.user_include_flags(), "-Wno-unused-function"]
        flags += [f"-D{define}" for define in (*defines, *known)]
        with _header_tree():
            try:
                self._bpf = bcc.BPF(text=text.encode(), cflags=flags)
            except Exception as error:
                if (
                    type(error) is not Exception
                ):  # BCC raises nothing narrower; it has printed the compiler's words itself
                    raise
                why = "; ".join(missing) or "see the messages above"
                raise LabError(f"{source.name} cannot be loaded on this kernel: {why}") from error
        self._loaded = _load_functions(bcc, self._bpf)
        self.attach_points = list(dict.fromkeys(function.place for function in self._loaded))
        (pages,) = _RING_PAGES.findall(text)
        events = self._bpf[b"events"]
        self.ring = Ring(events.map_fd, int(pages) * os.sysconf("SC_PAGE_SIZE"), _dtype(events))

    def lost(self) -> int:
        """Events that were not delivered since the program was loaded.

        Either the ring was full, or the kernel left a function out because it was already running on that CPU and no second
        one made up for it. (A second one that repeated the first, which is rare, can hide one that was left out.)
        """
        return int(self._bpf[b"lost"][0].value) + max(0, self._missed() - self._counter("RESCUED"))

    def runs(self) -> int:
        """How often an event came to a function of the program, counting the times that the kernel says it left it out."""
        return self._counter("RUNS") + self._missed()

    @property
    def events(self) -> list[str]:
        """Names of the kernel events that the program is attached to."""
        return [function.event for function in self._loaded if not function.again]

    def _counter(self, name: str) -> int:
        return int(sum(self._bpf[b"counters"][_COUNTERS.index(name)]))

    def _missed(self) -> int:
        return sum(recursion_misses(function.fd) for function in self._loaded if not function.again)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach every function of the program, and detach them all at the end."""
        with ExitStack() as links:
            for function in self._loaded:
                try:
                    link = raw_tracepoint_open(function.event, function.fd)
                except OSError as error:
                    raise LabError(
                        f"this kernel refuses the {function.place} ({error.strerror}): see lab doctor"
                    ) from error
                links.callback(os.close, link)
            yield

    @classmethod
    @cache
    def load(cls, name: str, defines: tuple[str, ...] = ()) -> "Program":
        """Compile and load `bpf/<name>.c` once per process; `defines` are further `-D` definitions."""
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


def _with_includes(text: str) -> str:
    """Return the text together with the lab's own headers it includes, macro definitions left out."""
    texts, queue, seen = [text], _INCLUDE.findall(text), set()
    while queue:
        name = queue.pop()
        if name not in seen:
            seen.add(name)
            texts.append((SOURCES / name).read_text())
            queue += _INCLUDE.findall(texts[-1])
    return _MACRO.sub("", "\n".join(texts))


def _kernel_facts(text: str) -> tuple[list[str], list[str]]:
    """Look up each kernel member, enumerator and tracepoint that the source mentions.

    Returns definitions for the compiler, and a sentence for each that this kernel lacks: those may stand in a branch that
    the preprocessor leaves out here, so only a failed compilation makes them an error.
    """
    text, btf = _with_includes(text), Btf.of_kernel()
    lookups: list[Callable[[], list[str]]] = [
        *(partial(_field, btf, *found) for found in sorted(set(_FIELD.findall(text)))),
        *(partial(_enum, btf, *found) for found in sorted(set(_ENUM.findall(text)))),
        *(partial(_tracepoint_args, btf, event) for event in sorted(set(_TRACEPOINT_ARGS.findall(text)))),
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


def _load_functions(bcc: Any, bpf: Any) -> list["_Function"]:
    """Load each of the program's functions; where it belongs is in its name."""
    names = [bcc.lib.bpf_function_name(bpf.module, i).decode() for i in range(bcc.lib.bpf_num_functions(bpf.module))]
    functions = []
    for name in names:
        kind, event, *again = name.removeprefix("on_").split("__")
        fd = bpf.load_func(name.encode(), bcc.BPF.RAW_TRACEPOINT).fd
        functions.append(_Function(kind.replace("_", " "), event, fd, again=bool(again)))
    return functions


def _dtype(table: Any) -> np.dtype[np.void]:
    """NumPy's view of the struct that the C source submits; members named `pad` are left out of sight."""
    event = type(table.event(ctypes.create_string_buffer(1 << 12)))
    fields: dict[str, tuple[Any, int]] = {}
    for name, kind in event._fields_:
        is_text = getattr(kind, "_type_", None) is ctypes.c_char
        if not name.startswith("pad"):
            fields[name] = (f"S{ctypes.sizeof(kind)}" if is_text else np.dtype(kind), getattr(event, name).offset)
    names = list(fields)
    return np.dtype(
        {
            "names": names,
            "formats": [fields[name][0] for name in names],
            "offsets": [fields[name][1] for name in names],
            "itemsize": ctypes.sizeof(event),
        }
    )
