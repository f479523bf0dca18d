"""Fields that rows of several live tools have, filled in from the rows of a BPF program. Their types: `row_types.py`.

Of many rows, each field is computed for all rows at once, as a list, and `dictionaries` puts the lists together.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

from lab.arrays import UNKNOWN, Integers, Mask, Rows
from lab.clock import rfc3339
from lab.live.account import SCHEMA_VERSION
from lab.tcp import address_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lab.live.row_types import Head

_T = TypeVar("_T")

Columns = dict[str, Sequence[Any]]
"""Lists of the same length, by the names of the fields."""


def dictionaries(columns: Columns) -> Iterator[Any]:
    """Yield each row of columns as a dictionary; the caller names its type."""
    names = list(columns)
    return (dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True))


def head(name: str, time_ns: int) -> "Head":
    """Return the first fields of a row of the schema `name`; `time_ns` is on `CLOCK_MONOTONIC`."""
    return {"schema": f"{name}/{SCHEMA_VERSION}", "time": rfc3339(time_ns), "time_ns": time_ns}


def heads(name: str, times_ns: "npt.NDArray[np.integer]") -> Columns:
    """Return the first fields of rows of the schema `name`."""
    plain = times_ns.tolist()
    return {"schema": [f"{name}/{SCHEMA_VERSION}"] * len(plain), "time": list(map(rfc3339, plain)), "time_ns": plain}


def sockets(rows: Rows) -> Columns:
    """Return the ends of rows of a BPF program: `netns`, `laddr`, `lport`, `raddr`, `rport`. 0 is no port."""
    return {
        "netns": not_zero(rows["netns"]),
        "local_address": addresses(rows["laddr"]),
        "local_port": not_zero(rows["lport"]),
        "remote_address": addresses(rows["raddr"]),
        "remote_port": not_zero(rows["rport"]),
    }


def ends(rows: Rows, **letters: str) -> Columns:
    """Return address and port of each end: with `client="c"`, `client_address` and `client_port` from `caddr` and `cport`."""
    columns: Columns = {}
    for name, letter in letters.items():
        columns |= {f"{name}_address": addresses(rows[f"{letter}addr"]), f"{name}_port": rows[f"{letter}port"].tolist()}
    return columns


def addresses(packed: "npt.NDArray[np.uint8]") -> list[str]:
    """Return addresses of shape (n, 16) as text."""
    import numpy as np

    return list(map(address_text, np.ascontiguousarray(packed).view("V16")[:, 0].tolist()))


def texts(column: "npt.NDArray[np.bytes_]") -> list[str]:
    """Return names that the kernel keeps in bytes, such as those of processes."""
    return [text.decode(errors="replace") for text in column.tolist()]


def names(kind: type[IntEnum], numbers: "npt.NDArray[np.integer]") -> list[str]:
    """Return the names of members of an enumeration."""
    return looked_up({member.value: member.name for member in kind}, numbers)


def words(kind: type[IntEnum], numbers: "npt.NDArray[np.integer]") -> list[str]:
    """Return the names of members of an enumeration in small letters."""
    return [name.lower() for name in names(kind, numbers)]


def looked_up(meanings: "Mapping[int, _T] | Sequence[_T]", numbers: "npt.NDArray[np.integer]") -> "list[_T]":
    """Return what numbers mean."""
    return [meanings[number] for number in numbers.tolist()]


def hexadecimal(values: "npt.NDArray[np.uint64]") -> list[str]:
    """Return kernel addresses as text."""
    return [f"{value:x}" for value in values.tolist()]


def not_zero(values: "npt.NDArray[Any]") -> list[Any]:
    """Return values, None in place of 0."""
    return [value or None for value in values.tolist()]


def times(times_ns: Integers) -> list[int | None]:
    """Return times or durations, None in place of `UNKNOWN`."""
    return known(times_ns, times_ns != UNKNOWN)


def known(values: "list[Any] | npt.NDArray[Any]", where: Mask) -> list[Any]:
    """Return the values that are known, None for the others."""
    plain = values if isinstance(values, list) else values.tolist()
    return [value if is_known else None for value, is_known in zip(plain, where.tolist(), strict=True)]
