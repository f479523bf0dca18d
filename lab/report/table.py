"""Tables that the page's script sorts and filters: columns, rows and cells."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from lab.units import amount_text

Cell = str | tuple[float | None, str] | tuple[float, float, float] | None


@dataclass(frozen=True)
class Column:
    """A column: its heading, its explanation (`hint`), and its kind.

    - `text`: cells are strings.
    - `number`: cells are a value to sort by (None: unknown) and its text.
    - `bracket`: cells are three places on a strip: start of the bracket, end of the bracket, value.

    With `choose`, the page offers a filter by the column's values.
    """

    name: str
    kind: str = "text"
    hint: str = ""
    choose: bool = False


@dataclass
class Table:
    """A table. A row is the key of its raw rows (None: not in the page), whether it has a failure, and its cells."""

    columns: list[Column]
    rows: list[tuple[str | None, bool, list[Cell]]] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """Return the table as the script reads it."""
        return {"columns": [asdict(column) for column in self.columns], "rows": self.rows}


def count(value: int) -> Cell:
    """Return the cell of a count."""
    return value, f"{value:,}"


def amount(value: float, unit: str) -> Cell:
    """Return the cell of a value with its unit; its sort value is None for NaN."""
    return None if math.isnan(value) else value, amount_text(value, unit)
