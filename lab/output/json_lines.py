"""Rows as JSON Lines. Live tools import it when there are rows to print: msgspec would take a fifth of their start."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec


def as_json(row: Mapping[str, Any]) -> str:
    """Return a row as JSON in ASCII, without control characters, as `json.dumps` does in more than twice the time."""
    text = msgspec.json.format(msgspec.json.encode(row), indent=0)
    return text.decode() if text.isascii() and b"\x7f" not in text else json.dumps(row)
