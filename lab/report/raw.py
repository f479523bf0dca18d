"""Raw rows that the page keeps: lines as they stand in the run's files, by the key that links use."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

_LONGEST = 4000  # characters of a line; a measurement may have many samples


@dataclass
class Raw:
    """Rows by key, each with the number of its line; `beside` is the folder of the page, from which links lead to the files."""

    beside: Path
    entries: dict[str, dict[str, object]] = field(default_factory=dict)

    def link(self, file: Path) -> str:
        """Return the address of a file, as seen from the page."""
        return quote(os.path.relpath(file, self.beside))

    def add(self, title: str, file: Path, lines: Iterable[tuple[int | None, str]], note: str = "") -> str:
        """Keep rows of a file; returns their key. A row without a number is none of its lines, but was made from it."""
        key = str(len(self.entries))
        kept = [
            [number, line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ... {len(line):,} characters"]
            for number, line in lines
        ]
        self.entries[key] = {"title": title, "file": file.name, "link": self.link(file), "lines": kept, "note": note}
        return key
