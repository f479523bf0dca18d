"""A spec survives writing and reading, and its dtypes have the layout of C structs."""

import ctypes

from hypothesis import given
from hypothesis import strategies as st

from lab.ebpf.spec import CollectionSpec, MapSpec, ProgramSpec, dtype_of

TYPES = {
    "S": ctypes.c_char,
    "u1": ctypes.c_uint8,
    "u2": ctypes.c_uint16,
    "i4": ctypes.c_int32,
    "u4": ctypes.c_uint32,
    "i8": ctypes.c_int64,
    "u8": ctypes.c_uint64,
}
KINDS = st.sampled_from(sorted(TYPES))
COUNTS = st.integers(0, 20)


def members(kinds):
    """Return members of these kinds, with names."""
    return [(f"member{number}", kind, count) for number, (kind, count) in enumerate(kinds)]


@given(st.lists(st.tuples(KINDS, COUNTS), min_size=1, max_size=8).map(members))
def test_a_dtype_has_the_layout_of_the_c_struct(struct):
    """Offsets, sizes and total size, with padding, are those of ctypes."""
    fields = [(name, TYPES[kind] * count if count else TYPES[kind]) for name, kind, count in struct]
    as_in_c = type("AsInC", (ctypes.Structure,), {"_fields_": fields})
    dtype = dtype_of(struct)
    assert dtype.itemsize == ctypes.sizeof(as_in_c)
    for name, kind, count in struct:
        member, offset = dtype.fields[name]
        assert (offset, member.itemsize) == (getattr(as_in_c, name).offset, getattr(as_in_c, name).size)
        assert member.shape == ((count,) if count and kind != "S" else ())
        assert member.base.kind == kind[0]


def test_written_and_read():
    """`from_bytes` returns an equal spec."""
    table = MapSpec("totals", 1, 8, 16, 64, 0, [("epoch", "u4", 0)], [("name", "S", 16)])
    code = ProgramSpec("on_xdp__frame", bytes(range(256)), [(0, "totals"), (7, "lost")])
    program = CollectionSpec([code, ProgramSpec("on_xdp__again", b"", [])], [table], ["kfree_skb"])
    assert CollectionSpec.from_bytes(program.to_bytes()) == program
