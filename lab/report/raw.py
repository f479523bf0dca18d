"""Raw rows embedded in the page: unchanged lines of the run's files, by the key that links use."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

_LONGEST = 4000  # characters of a line; a measurement may have many samples


@dataclass
class Raw:
    """Raw rows by key, each with its line number. `page_folder` is the folder of the page; links are relative to it."""

    page_folder: Path
    entries: dict[str, dict[str, object]] = field(default_factory=dict)

    def link(self, file: Path) -> str:
        """Return the URL of a file, relative to the page."""
        return quote(os.path.relpath(file, self.page_folder))

    def add(self, title: str, file: Path, lines: Iterable[tuple[int | None, str]], note: str = "") -> str:
        """Add rows of a file and return their key. A row without a line number is derived from the file."""
        key = str(len(self.entries))
        kept = [
            [number, line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ... {len(line):,} characters"]
            for number, line in lines
        ]
        self.entries[key] = {"title": title, "file": file.name, "link": self.link(file), "lines": kept, "note": note}
        return key
