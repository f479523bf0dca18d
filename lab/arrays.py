"""Names for the arrays that pass between the parts, and small functions over them.

What lives here: types, the marker of an unknown value, conversion of rows to Python's own values. What does not: anything that knows
what a row is about. NumPy is imported inside the functions: a live tool attaches its program before NumPy is loaded.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Events: TypeAlias = "npt.NDArray[np.void]"
"""Events of one program: a structured array of shape (n,) with the members of the C struct, times in nanoseconds."""

Rows: TypeAlias = "npt.NDArray[np.void]"
"""Measurements made from events: a structured array of shape (n,)."""

Row: TypeAlias = "np.void | dict[str, Any]"
"""One event or row, as NumPy has it or as `plain` makes it: both are read by the members' names."""

Integers: TypeAlias = "npt.NDArray[np.int64]"
Index: TypeAlias = "npt.NDArray[np.intp]"
Mask: TypeAlias = "npt.NDArray[np.bool_]"

UNKNOWN = -1
"""The value of a duration or time in nanoseconds that cannot be known."""


def plain(events: Events) -> Iterator[dict[str, Any]]:
    """Yield events as dictionaries of Python's own values, arrays of bytes as `bytes`.

    For printing: each costs a fraction of a NumPy row.
    """
    import numpy as np

    names = events.dtype.names or ()
    columns = []
    for name in names:
        column = events[name]
        if column.ndim > 1 and column.dtype == np.uint8:
            column = np.ascontiguousarray(column).view(f"V{column.shape[1]}")[:, 0]
        columns.append(column.tolist())
    return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def flow_numbers(rows: Rows) -> Index:
    """Return an array of shape (n,): the same number for rows of the same flow in the same network namespace."""
    import numpy as np

    parts = [rows["laddr"], rows["raddr"]]
    parts += [
        rows[name].astype(f"<{rows.dtype[name].str[1:]}")[:, None].view("u1") for name in ("lport", "rport", "netns")
    ]
    keys = np.ascontiguousarray(np.concatenate(parts, axis=1))
    _, numbers = np.unique(keys.view(f"V{keys.shape[1]}")[:, 0], return_inverse=True)
    return numbers
