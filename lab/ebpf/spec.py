"""The compiled form of one C file, as plain data: programs, maps and the layout of events.

What lives here: the types, their file format, and NumPy's dtype of a C struct. What does not: BCC and the kernel.
"""

import base64
import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

Members = list[tuple[str, str, int]]
"""A C struct: name, NumPy type and number of elements of each member; 0 elements for a member that is not an array.

`u8` is NumPy's name of an unsigned integer of 8 bytes; `S` is `char[]`.
"""


class MapSpec(NamedTuple):
    """A map: the arguments of BPF_MAP_CREATE (sizes in bytes), and the structs of its keys and values.

    A key or value that is not a struct has no members. `value` of a ring buffer is its record, whose size the
    kernel does not know.
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
    """The instructions of one function. `maps` has its references to maps: index of the instruction, name of map."""

    name: str
    instructions: bytes
    maps: list[tuple[int, str]]


class CollectionSpec(NamedTuple):
    """A compiled C file. The index of a raw tracepoint in `events` is its number in the C code (`EVENT()`)."""

    functions: list[ProgramSpec]
    tables: list[MapSpec]
    events: list[str]

    def to_bytes(self) -> bytes:
        """Return the spec as JSON, with the instructions in base64."""
        functions = [(it.name, base64.b64encode(it.instructions).decode(), it.maps) for it in self.functions]
        return json.dumps([functions, self.tables, self.events]).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "CollectionSpec":
        """Return the spec that `to_bytes` wrote."""
        functions, tables, events = json.loads(data)
        return cls(
            [ProgramSpec(name, base64.b64decode(code), _tuples(maps)) for name, code, maps in functions],
            [MapSpec._make([*numbers, _tuples(key), _tuples(value)]) for *numbers, key, value in tables],
            events,
        )


def dtype_of(members: Members) -> "np.dtype[np.void]":
    """Return the dtype of a C struct, with the padding between members and at the end that C adds."""
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
    """Return rows as tuples; JSON has lists only."""
    return [tuple(row) for row in rows]
