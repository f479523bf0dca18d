"""What a compiler makes of a C file, as plain data: functions, maps, and how an event looks. No kernel and no BCC needed.

It can be written to a file and read again, and is loaded the same way whether it was compiled just now or long ago.
"""

import base64
import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

Members = list[tuple[str, str, int]]
"""A C struct: of each member its name, NumPy's name of its type (`u8` is 64 bits wide, `S` is text), and how many elements it has,
0 when it is no array."""


class MapSpec(NamedTuple):
    """A map: what `bpf(BPF_MAP_CREATE)` wants to know (sizes in bytes), and the structs that are its keys and values.

    The value of a ring buffer is its record, though the kernel knows no size of it. What is no struct has no members.
    """

    name: str
    map_type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    key: Members
    value: Members


class ProgramSpec(NamedTuple):
    """A function's instructions. `maps` says where they take which map: position of the instruction, name of the map."""

    name: str
    instructions: bytes
    maps: list[tuple[int, str]]


class CollectionSpec(NamedTuple):
    """A compiled C file. `events` are the raw tracepoints that the program counts by number: by their position here."""

    functions: list[ProgramSpec]
    tables: list[MapSpec]
    events: list[str]

    def to_bytes(self) -> bytes:
        """Write it as JSON, with the instructions in base 64."""
        functions = [(it.name, base64.b64encode(it.instructions).decode(), it.maps) for it in self.functions]
        return json.dumps([functions, self.tables, self.events]).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "CollectionSpec":
        """Read what `to_bytes` has written."""
        functions, tables, events = json.loads(data)
        return cls(
            [ProgramSpec(name, base64.b64decode(code), _tuples(maps)) for name, code, maps in functions],
            [MapSpec._make([*numbers, _tuples(key), _tuples(value)]) for *numbers, key, value in tables],
            events,
        )


def dtype_of(members: Members) -> "np.dtype[np.void]":
    """NumPy's view of a C struct, with C's gaps between the members and behind the last; text is of `char[]`."""
    import numpy as np

    aligned = np.dtype(
        [
            (name, f"S{max(count, 1)}") if kind == "S" else (name, kind) if not count else (name, kind, count)
            for name, kind, count in members
        ],
        align=True,
    )
    fields = dict(aligned.fields or {})
    formats, offsets = [field[0] for field in fields.values()], [field[1] for field in fields.values()]
    return np.dtype({"names": list(fields), "formats": formats, "offsets": offsets, "itemsize": aligned.itemsize})


def _tuples(rows: list[list[Any]]) -> list[Any]:
    """Return as tuples what JSON has made lists."""
    return [tuple(row) for row in rows]
