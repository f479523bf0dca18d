"""Text for people and spreadsheets: what comes from outside is escaped.

Other users may choose the names of processes, interfaces and files, and the contents of captures and results. A terminal obeys
control characters in them, a newline forges a row, and a spreadsheet computes a cell that begins with `=`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_FORMULA = ("=", "+", "-", "@")


def printable(text: str, keep: str = "") -> str:
    """Return a text with every control, format and unassigned character as an escape sequence, except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def cell(value: Any) -> Any:
    """Return a value for CSV: a text without control characters, which no spreadsheet takes for a formula (OWASP, CSV injection)."""
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value.startswith(_FORMULA) else printable(value)


def printable_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its texts escaped."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in row.items()}


def aligned(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """Return a table that is no wider than its texts, which are escaped: the first column to the left, the others to the right."""
    lines = [[printable(text) for text in line] for line in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def tabulated(rows: Iterable[Sequence[Any]], headers: Sequence[str], **options: Any) -> str:
    """Return a table with its texts escaped. `options`: as for `tabulate`."""
    from tabulate import tabulate

    escaped = [[printable(value) if isinstance(value, str) else value for value in row] for row in rows]
    return tabulate(escaped, [printable(head) for head in headers], **options)
