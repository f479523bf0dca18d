"""Rows as JSON Lines. Imported when there are rows to print, since msgspec takes a tenth of a live tool's start."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec


def as_json(row: Mapping[str, Any]) -> str:
    """Return a row as JSON in ASCII, without control characters, as `json.dumps` does in three times as long."""
    text = msgspec.json.format(msgspec.json.encode(row), indent=0)
    return text.decode() if text.isascii() and b"\x7f" not in text else json.dumps(row)
