"""The BTF reader returns offsets, sizes and constants as compiled, and names what the kernel lacks."""

import re
import shutil
import struct
import subprocess
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

import pytest

from lab.ebpf.source import KFUNCS, kernel_facts, mentions, text_of
from lab.errors import LabError
from lab.linux.btf import KINDS, VMLINUX, Btf, Field
from lab.paths import SOURCES


class Blob:
    """A BTF blob, assembled type by type (`Documentation/bpf/btf.rst`)."""

    def __init__(self) -> None:
        self._strings, self._types, self._count = b"\0", b"", 0

    def name(self, text: str) -> int:
        """Return the offset of a name in the string section, 0 for no name."""
        if not text:
            return 0
        if f"\0{text}\0".encode() not in self._strings:
            self._strings += text.encode() + b"\0"
        return self._strings.index(f"\0{text}\0".encode()) + 1

    def add(
        self, kind: str, name: str, size_or_type: int = 0, *, vlen: int = 0, flag: int = 0, rest: bytes = b""
    ) -> int:
        """Add a type of any kind and return its id. `rest` are the bytes after the first 12 of the record."""
        info = flag << 31 | KINDS.index(kind) << 24 | vlen
        self._types += struct.pack("=3I", self.name(name), info, size_or_type) + rest
        self._count += 1
        return self._count

    def integer(self, name: str, size: int) -> int:
        """Add an integer of `size` bytes."""
        return self.add("INT", name, size, rest=struct.pack("=I", size * 8))

    def array(self, element: int, count: int, index: int) -> int:
        """Add an array."""
        return self.add("ARRAY", "", rest=struct.pack("=3I", element, index, count))

    def composite(
        self, kind: str, name: str, size: int, *members: tuple[str, int, int] | tuple[str, int, int, int]
    ) -> int:
        """Add a struct or union. Members are (name, type, bit offset); bitfields also have a width."""
        flag = int(any(len(member) == 4 for member in members))
        wide = [(*member, 0)[:4] for member in members]
        rest = b"".join(struct.pack("=3I", self.name(name), kind, width << 24 | at) for name, kind, at, width in wide)
        return self.add(kind, name, size, vlen=len(members), flag=flag, rest=rest)

    def enum(self, name: str, **constants: int) -> int:
        """Add an enum of 32 bits."""
        rest = b"".join(struct.pack("=Ii", self.name(key), value) for key, value in constants.items())
        return self.add("ENUM", name, 4, vlen=len(constants), rest=rest)

    def function_type(self, *parameters: int) -> int:
        """Add a function's type."""
        rest = b"".join(struct.pack("=2I", 0, parameter) for parameter in parameters)
        return self.add("FUNC_PROTO", "", vlen=len(parameters), rest=rest)

    def finish(self, header_len: int = 24) -> bytes:
        """Return the blob."""
        sections = 0, len(self._types), len(self._types), len(self._strings)
        header = struct.pack("=HBB5I", 0xEB9F, 1, 0, header_len, *sections)
        return header.ljust(header_len, b"\0") + self._types + self._strings


def small_blob() -> Blob:
    """Return a blob with the types below and some of every other kind.

    struct inner { u16 port; u8 state; };
    struct outer {
        u64 first;
        union { u32 word; struct { u16 low; u16 high; }; };  // anonymous: 8
        struct inner in;                                     // 12
        u8 bytes[6];                                         // 16
        void *next;                                          // 24
        u32 narrow:3, wide:9, last:20;                       // 32
        const aliased_t alias;                               // 36
    };
    typedef struct { u32 a; u32 b; } pair_t;
    """
    blob = Blob()
    u8, u16, u32, u64 = (blob.integer(f"u{size * 8}", size) for size in (1, 2, 4, 8))
    blob.array(u8, KINDS.index("STRUCT") << 24, blob.name("outer"))  # its middle looks like the record of struct outer
    blob.add("FWD", "outer")
    parameter = blob.add("PTR", "", 0)
    prototype = blob.function_type(parameter, parameter, u32, u32)
    blob.add("FUNC", "outer", prototype)
    blob.add("TYPEDEF", "btf_trace_something", blob.add("PTR", "", prototype))
    inner = blob.composite("STRUCT", "inner", 4, ("port", u16, 0), ("state", u8, 16))
    halves = blob.composite("STRUCT", "", 4, ("low", u16, 0), ("high", u16, 16))
    union = blob.composite("UNION", "", 4, ("word", u32, 0), ("", halves, 0))
    aliased = blob.add("CONST", "", blob.add("TYPEDEF", "aliased_t", u16))
    blob.add("VAR", "variable", u8, rest=struct.pack("=I", 1))
    blob.add("DATASEC", ".data", 8, vlen=1, rest=bytes(12))
    blob.add("DECL_TAG", "tag", inner, rest=struct.pack("=i", -1))
    blob.add("FLOAT", "double", 8)
    blob.add("ENUM64", "huge", 8, vlen=1, rest=bytes(12))
    blob.enum("flags", FIRST=0, SECOND=1, BELOW=-1)
    blob.composite(
        "STRUCT",
        "outer",
        40,
        ("first", u64, 0),
        ("", union, 64),
        ("in", inner, 96),
        ("bytes", blob.array(u8, 6, u32), 128),
        ("next", parameter, 192),
        ("narrow", u32, 256, 3),
        ("wide", u32, 259, 9),
        ("last", u32, 268, 20),
        ("alias", aliased, 288),
    )
    blob.add("TYPEDEF", "pair_t", blob.composite("STRUCT", "", 8, ("a", u32, 0), ("b", u32, 32)))
    return blob


@pytest.fixture(scope="module")
def btf():
    """Read `small_blob`."""
    return Btf(small_blob().finish())


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("first", Field(0, 8)),
        ("word", Field(8, 4)),
        ("low", Field(8, 2)),
        ("high", Field(10, 2)),
        ("in", Field(12, 4)),
        ("in.port", Field(12, 2)),
        ("in.state", Field(14, 1)),
        ("bytes", Field(16, 6)),
        ("next", Field(24, 8)),
        ("narrow", Field(32, 4, 0, 3)),
        ("wide", Field(32, 4, 3, 9)),
        ("last", Field(32, 4, 12, 20)),
        ("alias", Field(36, 2)),
    ],
)
def test_a_member_has_the_offset_and_size_of_the_compiler(btf, path, field):
    """Also nested and anonymous members, qualified types, bitfields, arrays and pointers."""
    assert btf.field("outer", path) == field


def test_a_typedef_names_a_struct(btf):
    """An anonymous struct is found by the name of its typedef."""
    assert btf.field("pair_t", "b") == Field(4, 4)


@pytest.mark.parametrize(("name", "value"), [("FIRST", 0), ("SECOND", 1), ("BELOW", -1)])
def test_a_constant_has_its_value(btf, name, value):
    """Constants of an enum are signed."""
    assert btf.enumerator("flags", name) == value


def test_the_private_argument_of_a_tracepoint_does_not_count(btf):
    """A program does not get the first parameter of the tracepoint's prototype."""
    assert btf.tracepoint_args("something") == 3


def test_a_longer_header_is_accepted():
    """The header contains its length; later versions of BTF may extend it."""
    assert Btf(small_blob().finish(header_len=40)).field("outer", "in.state") == Field(14, 1)


@pytest.mark.parametrize(
    ("look_up", "sentence"),
    [
        (lambda btf: btf.field("nothing", "x"), r"no struct .*`nothing`"),
        (lambda btf: btf.field("flags", "x"), r"no struct .*`flags`"),
        (lambda btf: btf.field("outer", "second"), r"`outer` has no member `second`"),
        (lambda btf: btf.field("outer", "in.sport"), r"`outer` has no member `in\.sport`"),
        (lambda btf: btf.field("outer", "first.x"), r"`outer` has no member `first\.x`"),
        (lambda btf: btf.field("inner", "flags"), r"`inner` has no member `flags`"),
        (lambda btf: btf.enumerator("colours", "RED"), r"no enum `colours`"),
        (lambda btf: btf.enumerator("flags", "THIRD"), r"`enum flags` has no `THIRD`"),
        (lambda btf: btf.enumerator("flags", "first"), r"`enum flags` has no `first`"),
        (lambda btf: btf.tracepoint_args("other"), r"no .*`btf_trace_other`"),
        (lambda btf: btf.type_id("FUNC", "inner"), r"no func `inner`"),
    ],
)
def test_a_missing_type_or_member_is_named(btf, look_up, sentence):
    """The error is one line with the name, also when the name exists for another kind of type."""
    with pytest.raises(LabError, match=sentence) as caught:
        look_up(btf)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("blob", [b"", b"\x9f\xeb", b"\x7fELF" + bytes(100), small_blob().finish()[::-1]])
def test_a_file_that_is_not_btf_is_refused(blob):
    """For an empty, short or foreign file the error names the kernel option."""
    with pytest.raises(LabError, match="CONFIG_DEBUG_INFO_BTF=y"):
        Btf(blob)


def test_a_kernel_without_btf_is_an_error(tmp_path):
    """The error names the missing file and the kernel option."""
    with pytest.raises(LabError, match=rf"no BTF \({tmp_path}/vmlinux does not exist\): .*CONFIG_DEBUG_INFO_BTF=y"):
        Btf.of_kernel(tmp_path / "vmlinux")


class Dump:
    """The same facts from another reader: `bpftool btf dump ... format raw`."""

    _TYPE = re.compile(r"\[(\d+)\] (\w+) '(.*?)'(.*)")
    _ENTRY = re.compile(r"\t'(.*?)' (.*)")

    def __init__(self, text: str) -> None:
        self.types: dict[int, SimpleNamespace] = {}
        self.named: dict[tuple[str, str], SimpleNamespace] = {}
        for line in text.splitlines():
            if match := self._TYPE.match(line):
                number, kind, name, rest = match.groups()
                this = SimpleNamespace(kind=kind, entries=[], number=int(number), **self._numbers(rest))
                self.types[int(number)] = this
                self.named.setdefault((kind, name), this)
            elif match := self._ENTRY.match(line):
                this.entries.append((match[1], self._numbers(match[2])))

    @staticmethod
    def _numbers(text: str) -> dict[str, int]:
        return {name: int(value) for name, value in re.findall(r"(\w+)=(-?\d+)", text)}

    def _plain(self, number: int) -> SimpleNamespace:
        this = self.types[number]
        return self._plain(this.type_id) if this.kind in ("TYPEDEF", "CONST", "VOLATILE", "TYPE_TAG") else this

    def size(self, number: int) -> int:
        """Return a type's size in bytes."""
        this = self._plain(number)
        if this.kind == "ARRAY":
            return this.nr_elems * self.size(this.type_id)
        return struct.calcsize("P") if this.kind == "PTR" else this.size

    def _places(self, composite: SimpleNamespace):
        for name, entry in composite.entries:
            if name == "(anon)":
                inside = self._places(self._plain(entry["type_id"]))
                yield from ((inner, bits + entry["bits_offset"], number) for inner, bits, number in inside)
            else:
                yield name, entry["bits_offset"], entry["type_id"]

    def field(self, type_name: str, *path: str) -> tuple[int, int]:
        """Return offset and size in bytes."""
        at, this = 0, self.named["STRUCT", type_name]
        for member in path:
            bits, number = {name: (bits, number) for name, bits, number in self._places(this)}[member]
            at, this = at + bits, self._plain(number)
        return at // 8, self.size(number)

    def constant(self, enum: str, name: str) -> int:
        """Return an enumerator's value."""
        return dict(self.named["ENUM", enum].entries)[name]["val"]

    def arguments(self, event: str) -> int:
        """Return the number of arguments of a raw tracepoint's program."""
        pointer = self.types[self.named["TYPEDEF", f"btf_trace_{event}"].type_id]
        return self.types[pointer.type_id].vlen - 1

    def number(self, kind: str, name: str) -> int:
        """Return the id of a named type."""
        return self.named[kind, name].number

    def parameters(self, function: str) -> int:
        """Return the number of arguments of a kernel function."""
        return self.types[self.named["FUNC", function].type_id].vlen

    def argument(self, function: str, name: str) -> int:
        """Return the index of a kernel function's argument by its name."""
        entries = self.types[self.named["FUNC", function].type_id].entries
        return {argument: number for number, (argument, _) in enumerate(entries)}[name]


@pytest.fixture(scope="session")
def dump():
    """Read the running kernel's types with bpftool, which `make test-setup` installs."""
    bpftool = shutil.which("bpftool", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    assert bpftool, "bpftool is missing: make test-setup installs it"
    words = [bpftool, "btf", "dump", "file", str(VMLINUX), "format", "raw"]
    return Dump(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel has no BTF to compare")
@pytest.mark.parametrize("source", sorted(SOURCES.glob("*.c")), ids=lambda path: path.name)
def test_kernel_facts_agree_with_bpftool(dump, source):
    """Two independent readers agree on each member, constant, tracepoint and function that a program mentions."""
    mentioned = mentions(text_of(source))
    known, missing = kernel_facts(mentioned, Btf.of_kernel())

    def field(type_name, members):
        path = [member.strip() for member in members.split(",")]
        offset, size = dump.field(type_name, *path)
        name = "__".join([type_name, *path])
        number = dump.number("STRUCT", type_name)
        return {f"OFFSET__{name}={offset}", f"SIZE__{name}={size}", f"TYPE__{type_name}={number}"}

    def enumerator(enum, name):
        return {f"ENUM__{enum}__{name}={dump.constant(enum, name)}"}

    def function_args(name):
        return {f"FUNCTION_ARGS__{name}={dump.parameters(name)}"}

    def tracepoint_args(event):
        return {f"TRACEPOINT_ARGS__{event}={dump.arguments(event)}"}

    def argument(function, name):
        return {f"ARGUMENT_OF__{function}__{name}={dump.argument(function, name)}"}

    lookups = [
        *(partial(field, *it) for it in mentioned.fields),
        *(partial(enumerator, *it) for it in mentioned.enumerators),
        *(partial(function_args, it) for it in mentioned.function_args),
        *(partial(argument, *it) for it in mentioned.arguments),
        *(partial(tracepoint_args, it) for it in mentioned.tracepoint_args),
    ]
    expected = set()
    lacking = 0
    for look_up in lookups:
        try:
            expected |= look_up()
        except KeyError:
            lacking += 1
    for name in mentioned.kfuncs:
        with suppress(KeyError):
            expected.add(f"KFUNC__{name}={KFUNCS + dump.number('FUNC', name)}")
    assert set(known) == expected
    assert len(missing) == lacking
