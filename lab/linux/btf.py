"""BTF, the kernel's type information: struct members, enumerators, arguments and type ids of the running kernel.

Format: `Documentation/bpf/btf.rst` of the kernel. What does not live here: tags, and the BTF of modules.
"""

import os
import struct
from bisect import bisect_left
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple, Self

from lab.errors import LabError

VMLINUX = Path("/sys/kernel/btf/vmlinux")

KINDS = [
    "VOID",
    "INT",
    "PTR",
    "ARRAY",
    "STRUCT",
    "UNION",
    "ENUM",
    "FWD",
    "TYPEDEF",
    "VOLATILE",
    "CONST",
    "RESTRICT",
    "FUNC",
    "FUNC_PROTO",
    "VAR",
    "DATASEC",
    "FLOAT",
    "DECL_TAG",
    "TYPE_TAG",
    "ENUM64",
]
# Bytes after the first 12 of a type record: (fixed, for each of its `vlen` entries).
_TRAILER = {
    "INT": (4, 0),
    "ARRAY": (12, 0),
    "STRUCT": (0, 12),
    "UNION": (0, 12),
    "ENUM": (0, 8),
    "FUNC_PROTO": (0, 8),
    "VAR": (4, 0),
    "DATASEC": (0, 12),
    "DECL_TAG": (4, 0),
    "ENUM64": (0, 12),
}
_ALIASES = ("TYPEDEF", "VOLATILE", "CONST", "RESTRICT", "TYPE_TAG")
_MAGIC = 0xEB9F


class Field(NamedTuple):
    """Place of a member in its struct: `offset` and `size` in bytes; of a bitfield also bit offset and width."""

    offset: int
    size: int
    bit_offset: int = 0
    bit_size: int = 0


def kernel_identity() -> str:
    """Return a string that differs for kernels with different types. Raises `LabError` for a kernel without BTF."""
    uname = os.uname()
    notes = Path("/sys/kernel/notes")  # contains the build id, a digest of the kernel
    build = notes.read_bytes().hex() if notes.exists() else ""
    return f"{uname.release} {uname.version} {uname.machine} {build} {_existing(VMLINUX).stat().st_size}"


def _existing(path: Path) -> Path:
    if not path.exists():
        raise LabError(
            f"this kernel has no BTF ({path} does not exist): boot a kernel built with CONFIG_DEBUG_INFO_BTF=y"
        )
    return path


class _Lengths(dict[int, int]):
    """Length in bytes of a type record, by its second word. 100,000 records have about 1,000 different ones."""

    def __missing__(self, info: int) -> int:
        fixed, entry = _TRAILER.get(KINDS[info >> 24 & 0x1F], (0, 0))
        self[info] = length = 12 + fixed + entry * (info & 0xFFFF)
        return length


class Btf:
    """The types of one BTF blob. Raises `LabError` when the blob is not BTF in this machine's byte order."""

    def __init__(self, blob: bytes) -> None:
        if len(blob) < 24 or struct.unpack_from("=H", blob)[0] != _MAGIC:
            raise LabError("the kernel's type information is not BTF: use a kernel built with CONFIG_DEBUG_INFO_BTF=y")
        header_len, type_off, type_len, str_off, str_len = struct.unpack_from("=5I", blob, 4)
        types, strings = header_len + type_off, header_len + str_off
        self._types, self._strings = blob[types : types + type_len], blob[strings : strings + str_len]
        self._offsets: dict[str, int | None] = {}
        self._ids: dict[tuple[str, str], int] = {}

    @classmethod
    @cache
    def of_kernel(cls, path: Path = VMLINUX) -> Self:
        """Return the running kernel's types. Raises `LabError` for a kernel without BTF."""
        return cls(_existing(path).read_bytes())

    @cached_property
    def _positions(self) -> list[int]:
        """Byte position of each type record, by type id; id 0 is void and has no record."""
        words, lengths = memoryview(self._types).cast("I"), _Lengths()
        positions, position, end = [-1], 0, len(self._types)
        while position < end:
            positions.append(position)
            position += lengths[words[position // 4 + 1]]
        return positions

    def _record(self, type_id: int) -> tuple[str, int, int, int, int]:
        """Return (kind, vlen, bitfield flag, size or type id, position after the first 12 bytes) of one type."""
        if type_id == 0:
            return "VOID", 0, 0, 0, 0
        position = self._positions[type_id]
        _, info, size_or_type = struct.unpack_from("=3I", self._types, position)
        return KINDS[info >> 24 & 0x1F], info & 0xFFFF, info >> 31, size_or_type, position + 12

    def _string_offset(self, name: str) -> int | None:
        """Return the offset of this exact name in the string section, None without it. Each name is stored once."""
        if name not in self._offsets:
            found = self._strings.find(b"\0" + name.encode() + b"\0")
            self._offsets[name] = None if found < 0 else found + 1
        return self._offsets[name]

    def type_id(self, kind: str, name: str) -> int:
        """Return the id of the first type of this kind and name. Raises `LabError` when the kernel has none."""
        if known := self._ids.get((kind, name)):
            return known
        wanted = self._string_offset(name)
        if wanted is not None:
            # Search for the name's offset in the bytes, then check that a record begins there: faster than a visit of
            # every record.
            needle, number = struct.pack("=I", wanted), KINDS.index(kind)
            found = self._types.find(needle)
            while found >= 0:
                type_id = bisect_left(self._positions, found)
                is_record = type_id < len(self._positions) and self._positions[type_id] == found
                if is_record and struct.unpack_from("=I", self._types, found + 4)[0] >> 24 & 0x1F == number:
                    self._ids[kind, name] = type_id
                    return type_id
                found = self._types.find(needle, found + 1)
        raise LabError(f"this kernel has no {kind.lower()} `{name}`: the probe that needs it cannot run here")

    def composite(self, name: str) -> int:
        """Return the id of a struct or union, by its name or a typedef's. Raises `LabError` when there is none."""
        for kind in ("STRUCT", "UNION"):
            try:
                return self.type_id(kind, name)
            except LabError:
                continue
        try:
            return self._resolve(self.type_id("TYPEDEF", name))
        except LabError:
            raise LabError(f"this kernel has no struct `{name}`: the probe that needs it cannot run here") from None

    def field(self, type_name: str, path: str) -> Field:
        """Return the place of a member by its path (`skc_dport`, `sk_lock.owned`).

        Members of anonymous structs and unions are found too. `type_name` is a struct, a union or a typedef of one.
        Raises `LabError` when this kernel has no such member.
        """
        type_id = self.composite(type_name)
        bits, width = 0, 0
        for name in path.split("."):
            found = self._member(self._resolve(type_id), name)
            if found is None:
                raise LabError(
                    f"this kernel's `{type_name}` has no member `{path}`: the probe that reads it cannot run"
                )
            member_bits, width, type_id = found
            bits += member_bits
        size = self._size(type_id)
        if width:  # a bitfield: its storage unit, and its bit offset in the unit
            unit = bits // (size * 8) * size
            return Field(unit, size, bits - unit * 8, width)
        return Field(bits // 8, size)

    def enumerator(self, enum: str, name: str) -> int:
        """Return the value of one constant of a 32-bit enum. Raises `LabError` without the enum or the constant."""
        _, count, _, _, position = self._record(self.type_id("ENUM", enum))
        wanted = self._string_offset(name)
        for name_off, value in struct.iter_unpack("=Ii", self._types[position : position + 8 * count]):
            if name_off == wanted:
                return int(value)
        raise LabError(f"this kernel's `enum {enum}` has no `{name}`: the probe that needs it cannot run")

    def enumerators(self, enum: str) -> dict[int, str]:
        """Return the constants of a 32-bit enum by value. Raises `LabError` without the enum."""
        _, count, _, _, position = self._record(self.type_id("ENUM", enum))
        found = struct.iter_unpack("=Ii", self._types[position : position + 8 * count])
        return {value: self._strings[at : self._strings.index(b"\0", at)].decode() for at, value in found}

    def tracepoint_args(self, event: str) -> int:
        """Return the number of arguments of a raw tracepoint's program. Raises `LabError` without the tracepoint."""
        pointer = self._resolve(self.type_id("TYPEDEF", f"btf_trace_{event}"))
        prototype = self._record(pointer)[3]
        return self._record(prototype)[1] - 1  # the first is the tracepoint's private data

    def function_args(self, name: str) -> int:
        """Return the number of arguments of a kernel function. Raises `LabError` without the function."""
        return self._prototype(name)[1]

    def function_argument(self, name: str, argument: str) -> int:
        """Return the index of a kernel function's argument. Raises `LabError` without the function or the argument."""
        _, count, _, _, position = self._prototype(name)
        wanted = self._string_offset(argument)
        for number, (name_off, _) in enumerate(struct.iter_unpack("=2I", self._types[position : position + 8 * count])):
            if name_off == wanted:
                return number
        raise LabError(f"this kernel's `{name}()` has no argument `{argument}`: the probe that reads it cannot run")

    def _prototype(self, name: str) -> tuple[str, int, int, int, int]:
        """Return the record of a kernel function's prototype; its vlen is the number of arguments."""
        return self._record(self._record(self.type_id("FUNC", name))[3])

    def _resolve(self, type_id: int) -> int:
        """Return the type behind typedefs and qualifiers."""
        kind, _, _, target, _ = self._record(type_id)
        return self._resolve(target) if kind in _ALIASES else type_id

    def _members(self, type_id: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (name offset, bit offset, bitfield width or 0, type id) of each member of a struct or union."""
        kind, count, has_bitfields, _, position = self._record(type_id)
        if kind not in ("STRUCT", "UNION"):
            return
        for name_off, member_type, offset in struct.iter_unpack("=3I", self._types[position : position + 12 * count]):
            if has_bitfields:
                yield name_off, offset & 0xFFFFFF, offset >> 24, member_type
            else:
                yield name_off, offset, 0, member_type

    def _member(self, type_id: int, name: str) -> tuple[int, int, int] | None:
        """Return (bit offset, bitfield width, type id) of a member, None without it. Searches anonymous members too."""
        wanted = self._string_offset(name)
        for name_off, bits, width, member_type in self._members(type_id):
            if name_off == wanted:
                return bits, width, member_type
            if name_off == 0 and (inner := self._member(self._resolve(member_type), name)):
                return bits + inner[0], inner[1], inner[2]
        return None

    def _size(self, type_id: int) -> int:
        """Return the size in bytes of a value of this type."""
        kind, _, _, size_or_type, position = self._record(self._resolve(type_id))
        if kind == "PTR":
            return struct.calcsize("P")
        if kind == "ARRAY":
            element, _, count = struct.unpack_from("=3I", self._types, position)
            return count * self._size(element)
        return size_or_type
