"""Types of the arrays that pass between the packages, and small functions on them.

What lives here: type names, the marker of an unknown value, copies of rows. What does not: code
that depends on the meaning of a row. NumPy is imported inside the functions, so that a live tool can attach its program
before NumPy is loaded.

Of large structured arrays `rows.take(index)`, `rows.compress(mask)` and `concatenated(parts)` copy whole rows. `rows[index]`
and `np.concatenate(parts)` copy field by field, which takes up to thirty times as long.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

Events: TypeAlias = "npt.NDArray[np.void]"
"""Events of one BPF program: a structured array of shape (n,) with the members of the C struct; times in ns."""

Rows: TypeAlias = "npt.NDArray[np.void]"
"""Measurements computed from events: a structured array of shape (n,)."""

Integers: TypeAlias = "npt.NDArray[np.int64]"
Index: TypeAlias = "npt.NDArray[np.intp]"
Mask: TypeAlias = "npt.NDArray[np.bool_]"

UNKNOWN = -1
"""The value of an unknown duration or time in nanoseconds."""


def extended(rows: Rows, **types: str) -> Rows:
    """Return a copy of rows with further fields of these types, which are 0; those that the rows have stay as they are."""
    import numpy as np

    known: Mapping[str, Any] = rows.dtype.fields or {}
    size = rows.dtype.itemsize
    new = {name: np.dtype(kind) for name, kind in types.items() if name not in known}
    ends = np.cumsum([size, *(kind.itemsize for kind in new.values())]).tolist()
    kind = np.dtype(
        {
            "names": [*known, *new],
            "formats": [*(field[0] for field in known.values()), *new.values()],
            "offsets": [*(field[1] for field in known.values()), *ends[:-1]],
            "itemsize": ends[-1],
        }
    )
    result = np.zeros(len(rows), kind)
    _octets(result)[:, :size] = _octets(np.ascontiguousarray(rows))
    return result


def _octets(rows: Rows) -> "npt.NDArray[np.uint8]":
    """Return contiguous rows as an array of shape (n, bytes of a row), without a copy."""
    return rows.view("u1").reshape(len(rows), rows.dtype.itemsize)


def concatenated(parts: "Sequence[Rows]") -> Rows:
    """Return rows after each other, as np.concatenate(), which also finds a type for rows of different ones."""
    import numpy as np

    kind = parts[0].dtype
    if any(part.dtype != kind for part in parts):
        return np.concatenate(parts)
    return np.concatenate([part.view(f"V{kind.itemsize}") for part in parts]).view(kind)


def narrowed(rows: Rows, kind: "np.dtype[np.void]") -> Rows:
    """Return a copy of rows without the fields that `extended` has added to this type."""
    import numpy as np

    return np.ascontiguousarray(_octets(np.ascontiguousarray(rows))[:, : kind.itemsize]).reshape(-1).view(kind)


def in_order(rows: Rows, of: str = "time_ns") -> Rows:
    """Return rows sorted by a field; those with the same value keep their order."""
    import numpy as np

    return rows.take(np.argsort(rows[of], kind="stable"))


def flow_numbers(rows: Rows) -> Index:
    """Return an array of shape (n,): rows of the same flow in the same network namespace have the same number."""
    import numpy as np

    parts = [rows["laddr"], rows["raddr"]]
    parts += [
        rows[name].astype(f"<{rows.dtype[name].str[1:]}")[:, None].view("u1") for name in ("lport", "rport", "netns")
    ]
    keys = np.ascontiguousarray(np.concatenate(parts, axis=1))
    _, numbers = np.unique(keys.view(f"V{keys.shape[1]}")[:, 0], return_inverse=True)
    return numbers
