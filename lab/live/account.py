"""What a live tool could not see or tell, said at its end: on standard error, and with `--json` in one last object."""

import sys
from typing import Any

from lab.output.text import printable

SCHEMA_VERSION = 1
"""Version of the rows' schemas. It changes when a field is removed, or changes its name, its type or its meaning."""


class Account:
    """Counts and notes; silent if there is nothing to say.

    - `without_room`: events for which no room was left in a buffer or a map.
    - `withheld`: events for which the kernel did not run the program: counted by the kernel (recursion) and by the audit.
    - `notes`: sentences of the tool itself.
    """

    def __init__(self) -> None:
        self.without_room = self.withheld = 0
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Add a sentence and print it at once; "" adds nothing."""
        if text:
            self.notes.append(text)
            _say(text)

    def add_without_room(self, count: int) -> None:
        """Add events for which no room was left, and say so at once: the output is not complete from here on."""
        self.without_room += count
        _say(f"{count} events lost: the output is not complete")

    def add_withheld(self, count: int) -> None:
        """Add events that the kernel withheld, and say so."""
        self.withheld += count
        _say(f"{count} events lost: the kernel did not run the program for them")

    def as_dict(self) -> dict[str, Any] | None:
        """Return the object for `--json`, None if there is nothing to tell."""
        if not (self.without_room or self.withheld or self.notes):
            return None
        return {
            "schema": f"account/{SCHEMA_VERSION}",
            "kind": "account",
            "events_without_room": self.without_room,
            "events_withheld": self.withheld,
            "notes": self.notes,
        }


def _say(text: str) -> None:
    print(f"lab: {printable(text)}", file=sys.stderr)
