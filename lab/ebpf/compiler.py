"""Compile a C file to instructions. The only module that imports BCC, which serves as a compiler and nothing else.

BCC's own Python binding (`bcc.libbcc`, the interface of `bcc_common.h`) is imported when something has to be compiled, and not when
the compiled form comes from the cache. The module that BCC makes is destroyed after its instructions and the descriptions of its maps
have been copied: the lab creates the maps and loads the programs itself.
"""

import ctypes
import errno
import importlib.util
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lab.ebpf import attach, cache, headers, spec
from lab.ebpf import source as source_module
from lab.ebpf.source import KFUNCS, differs_by_mechanism, kernel_facts, mentions, text_of
from lab.ebpf.spec import CollectionSpec, MapSpec, Members, ProgramSpec
from lab.errors import LabError, UnsupportedByKernel, remedy
from lab.linux import btf, cpus
from lab.linux.bpf import RINGBUF
from lab.linux.instance import Instance
from lab.linux.syscalls import syscall
from lab.signals import defer_signals

_LIBRARY = "libbcc.so.0"
REMEDY = (
    "install the package python3-bpfcc, and create the virtual environment by the distribution's Python with "
    "--system-site-packages"
)
"""What to do when BCC is missing."""
_PLACES = (f"/usr/lib/{os.uname().machine}-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")
_LD_IMM64, _PSEUDO_MAP_FD = 0x18, 1  # loads a map: the value is its file descriptor
_CALL, _PSEUDO_KFUNC_CALL = 0x85, 2  # calls a kernel function: the value is its number in BTF

# Names of C types, as sources spell them in events and the compiler in keys and values, and NumPy's names.
_TYPES = {
    "char": "S",
    **dict.fromkeys(("signed char", "s8"), "i1"),
    **dict.fromkeys(("unsigned char", "u8", "_Bool", "bool"), "u1"),
    **dict.fromkeys(("short", "s16"), "i2"),
    **dict.fromkeys(("unsigned short", "u16"), "u2"),
    **dict.fromkeys(("int", "s32"), "i4"),
    **dict.fromkeys(("unsigned int", "u32"), "u4"),
    **dict.fromkeys(("long", "long long", "s64"), "i8"),
    **dict.fromkeys(("unsigned long", "unsigned long long", "u64"), "u8"),
}
_ARRAY = re.compile(r"(.+?) ?\[(\d+)\]")
_MAY_LIFT_LIMIT = 1  # RLIMIT_MEMLOCK, which limits maps before Linux 5.11 (lab/ebpf/maps.py)
# For root, BCC reads all symbols of the kernel, which takes half of its time, to see whether bpf_probe_read_kernel() exists.
# Every kernel with a ring buffer has that helper. For other users BCC assumes that it is missing and defines its name as the
# older helper's.
_KERNEL_READS = "#undef bpf_probe_read_kernel"
_NOBODY = 65534
_DESCRIPTORS = 32
_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP = 28, 1 << 2
_GAP = "__pad_"  # prefix of BCC's names for padding between members

# Functions of bcc_common.h that BCC's Python binding does not declare: their arguments after the module, and their result.
_UNDECLARED: list[tuple[str, list[Any], Any]] = [
    ("num_tables", [], ctypes.c_size_t),
    ("table_name table_key_desc_id table_leaf_desc_id", [ctypes.c_size_t], ctypes.c_char_p),
    ("table_key_size_id table_leaf_size_id", [ctypes.c_size_t], ctypes.c_size_t),
    ("table_fd_id", [ctypes.c_size_t], ctypes.c_int),
]


def compile_source(source: Path, defines: Sequence[str] = ()) -> CollectionSpec:
    """Compile a C file for the running kernel, with `defines` as further `-D` definitions; the result may come from the cache.

    Raises `UnsupportedByKernel` when the kernel lacks something that the file reads, `LabError` with the compiler's messages when
    the file is wrong in itself, and when BCC is missing.
    """
    text = text_of(source)
    attach.forced()  # a wrong LAB_ATTACH is an error of every program
    common = [f"MACHINE_{os.uname().machine}=1", f"CPUS={cpus.possible()[-1] + 1}"]
    if differs_by_mechanism(text):
        common += [f"ATTACH_{it.upper()}={int(it == attach.mechanism())}" for it in attach.MECHANISMS]
    defines = [*common, *defines]
    # -g0: the instructions are the same without debug information, and compiling takes a tenth less time.
    flags = [*headers.user_include_flags(), "-Wno-unused-function", "-g0", *(f"-D{define}" for define in defines)]
    library, identity = _library_path(), btf.kernel_identity()
    made_from = [identity, f"{library} {library.stat().st_mtime_ns}", *_own_code(), headers.tree(), flags, text]

    def make() -> bytes:
        return _compile(library, source.name, text, flags).to_bytes()

    return CollectionSpec.from_bytes(cache.recall(source.stem, json.dumps(made_from).encode(), make))


def version() -> str:
    """Return BCC's version, as its library's file is named. Raises `LabError` when there is none."""
    return _library_path().name.removeprefix("libbcc.so.")


def require() -> str:
    """Return BCC's version. Raises `LabError` if its library or its Python module is missing."""
    if importlib.util.find_spec("bcc") is None:
        raise LabError(f"this Python has no module bcc: {REMEDY}")
    return version()


def _library_path() -> Path:
    for place in _PLACES:
        path = Path(place, _LIBRARY)
        if path.exists():
            return path.resolve()
    raise LabError(f"BCC is missing: {REMEDY}")


def _own_code() -> list[str]:
    """Return the source of the modules that decide what is compiled: an entry of the cache belongs to one version of them."""
    return [
        Path(file).read_text(encoding="utf-8")
        for file in (__file__, *(str(it.__file__) for it in (btf, source_module, spec)))
    ]


@defer_signals()
def _compile(library: Path, name: str, text: str, flags: Sequence[str]) -> CollectionSpec:
    # Signals are deferred: an exception would leave a thread inside the compiler.
    # A second thread loads the library while this one reads the kernel's types. ctypes.CDLL(path) would hold the GIL while it loads;
    # dlopen(), called as a function, does not.
    loading = threading.Thread(target=ctypes.CDLL(None).dlopen, args=(os.fsencode(library), os.RTLD_NOW), name="load")
    loading.start()
    mentioned = mentions(text)
    known, missing = kernel_facts(mentioned, btf.Btf.of_kernel())
    known += [f"EVENT__{event}={number}" for number, event in enumerate(mentioned.events)]
    loading.join()
    _require_descriptors()
    bcc = _binding()
    words = [word.encode() for word in (*flags, *(f"-D{fact}" for fact in known))]
    array = (ctypes.c_char_p * len(words))(*words)
    main = f'{_KERNEL_READS}\n#line 1 "{name}"\n{text}'.encode()
    with _header_tree(), _standard_error() as printed:
        module = _not_as_root(
            lambda: bcc.bpf_module_create_c_from_string(main, 0, array, len(words), _MAY_LIFT_LIMIT, None)
        )
    said = printed()
    if not module:
        if lacking := [why for macro, why in missing.items() if macro in said]:
            raise UnsupportedByKernel(f"{name} cannot be compiled for this kernel: {'; '.join(lacking)}")
        for number in (errno.EMFILE, errno.ENOMEM):  # a limit of this process, not a mistake in the source
            if os.strerror(number) in said:
                raise OSError(number, os.strerror(number))
        raise LabError(f"{name} does not compile: correct it\n{said.strip()}")
    sys.stderr.write(said)
    try:
        tables = range(bcc.bpf_num_tables(module))
        by_fd = {bcc.bpf_table_fd_id(module, number): bcc.bpf_table_name(module, number).decode() for number in tables}
        functions = [_function(bcc, module, number, by_fd) for number in range(bcc.bpf_num_functions(module))]
        return CollectionSpec(functions, [_table(bcc, module, number) for number in tables], mentioned.events)
    finally:
        bcc.bpf_module_destroy(module)


def _not_as_root(work: Callable[[], int]) -> int:
    """Run `work` on a thread of its own under the user id of nobody, with all capabilities: the kernel keeps ids by thread."""
    results = []

    def run() -> None:
        # Where the kernel refuses it, the work runs as root: slower, with the same result.
        with suppress(OSError):
            syscall("prctl", _PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
            syscall("setresuid", -1, _NOBODY, -1)
        results.append(work())

    thread = threading.Thread(target=run, name="compile")
    thread.start()
    thread.join()
    return results[0]


def _require_descriptors() -> None:
    """Raise `OSError` if a few dozen file descriptors are not left: BCC may crash without them."""
    opened: list[int] = []
    try:
        opened += (os.dup(2) for _ in range(_DESCRIPTORS))
    finally:
        for fd in opened:
            os.close(fd)


def _binding() -> Any:
    """Return BCC's library as its own Python binding declares it. Raises `LabError` when there is none."""
    try:
        from bcc.libbcc import lib  # noqa: PLC0415 (0.1 s that a start from the cache does not spend)
    except (ImportError, OSError) as error:
        if remedy(error):
            raise
        raise LabError(f"BCC cannot be loaded ({error}): {REMEDY}") from error
    for names, arguments, result in _UNDECLARED:
        for name in names.split():
            function = getattr(lib, f"bpf_{name}")
            function.argtypes, function.restype = [ctypes.c_void_p, *arguments], result
    return lib


@contextmanager
def _standard_error() -> Iterator[Callable[[], str]]:
    """Collect what the compiler writes to standard error inside the block; the function returns it afterwards."""
    kept, before = os.memfd_create("standard error"), os.dup(2)
    said = b""
    sys.stderr.flush()
    os.dup2(kept, 2)
    try:
        yield lambda: said.decode(errors="replace")
    finally:
        os.dup2(before, 2)
        os.close(before)
        said = os.pread(kept, os.fstat(kept).st_size, 0)
        os.close(kept)


@contextmanager
def _header_tree() -> Iterator[None]:
    """Write the header tree and name it in the environment, where BCC looks for kernel headers."""
    tree = Instance.current().path / "headers"
    headers.write_tree(tree)
    before = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(tree)
    try:
        yield
    finally:
        del os.environ["BCC_KERNEL_SOURCE"]
        if before is not None:
            os.environ["BCC_KERNEL_SOURCE"] = before


def _function(bcc: Any, module: int, number: int, maps_by_fd: dict[int, str]) -> ProgramSpec:
    name = bcc.bpf_function_name(module, number)
    code = bytearray(ctypes.string_at(bcc.bpf_function_start(module, name), bcc.bpf_function_size(module, name)))
    maps = []
    position = 0
    while position < len(code):
        wide, taken = code[position] == _LD_IMM64, slice(position + 4, position + 8)
        value = int.from_bytes(code[taken], "little", signed=True)
        if wide and code[position + 1] >> 4 == _PSEUDO_MAP_FD:
            maps.append((position // 8, maps_by_fd[value]))
            code[taken] = bytes(4)
        elif wide and code[position + 1] >> 4:
            raise TypeError(f"{name.decode()} loads an address that is no map: the lab cannot relocate that")
        elif code[position] == _CALL and value >= KFUNCS:
            code[position + 1] = _PSEUDO_KFUNC_CALL << 4
            code[taken] = (value - KFUNCS).to_bytes(4, "little")
        position += 16 if wide else 8
    return ProgramSpec(name.decode(), bytes(code), maps)


def _table(bcc: Any, module: int, number: int) -> MapSpec:
    def told(what: str) -> Any:
        return getattr(bcc, f"bpf_table_{what}")(module, number)

    name, map_type = told("name"), told("type_id")
    if map_type == RINGBUF:
        key, value = Members(), _record(bcc, module, name)
    else:
        key, value = _members_of(told("key_desc_id")), _members_of(told("leaf_desc_id"))
    sizes = (told("key_size_id"), told("leaf_size_id"), told("max_entries_id"))
    return MapSpec(name.decode(), map_type, *sizes, told("flags_id"), key, value)


def _record(bcc: Any, module: int, ring: bytes) -> Members:
    """Return the members of a ring buffer's records."""
    count = bcc.bpf_perf_event_fields(module, ring)
    fields = [bcc.bpf_perf_event_field(module, ring, number).decode() for number in range(count)]
    return [_member(*field.split("#")) for field in fields]


def _members_of(description: bytes) -> Members:
    """Return the members of the struct that BCC describes in JSON: [name, members, kind]. A string describes a scalar."""
    struct = json.loads(description)
    if isinstance(struct, str):
        return []
    return [_member(name, kind, *length) for name, kind, *length in struct[1] if not name.startswith(_GAP)]


def _member(name: str, kind: str, length: Sequence[int] = (0,)) -> tuple[str, str, int]:
    if found := _ARRAY.fullmatch(kind):
        kind, length = found[1], [int(found[2])]
    if kind not in _TYPES:
        raise TypeError(
            f"the member `{name}` is of the type `{kind}`: use flat structs of integers and arrays of bytes"
        )
    return name, _TYPES[kind], length[0]
