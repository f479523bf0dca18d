"""Tables that the page's script sorts and filters: columns, rows and the choices above them."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from lab.units import amount_text

Cell = str | tuple[float | None, str] | tuple[float, float, float] | None


@dataclass(frozen=True)
class Column:
    """A column: its heading, what it says (`hint`), and its kind.

    `text`; `number`, whose cells are a value to sort by and its text; or `bracket`, whose cells are three places on a strip:
    where the bracket begins, where it ends, and where the value is. A column with `choose` may be filtered by its values.
    """

    name: str
    kind: str = "text"
    hint: str = ""
    choose: bool = False


@dataclass
class Table:
    """A table. Each row has the key of its raw rows (None: not kept), whether it tells of something wrong, and its cells."""

    columns: list[Column]
    rows: list[tuple[str | None, bool, list[Cell]]] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """Return what the script reads."""
        return {"columns": [asdict(column) for column in self.columns], "rows": self.rows}


def count(value: int) -> Cell:
    """Return the cell of a number of things."""
    return value, f"{value:,}"


def amount(value: float, unit: str) -> Cell:
    """Return the cell of a quantity; nothing for NaN."""
    return None if math.isnan(value) else value, amount_text(value, unit)
