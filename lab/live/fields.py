"""Fields that rows of several live tools have, filled in from the rows of a BPF program. Their types: `row_types.py`."""

from typing import TYPE_CHECKING

from lab.arrays import Row
from lab.clock import rfc3339
from lab.live.account import SCHEMA_VERSION
from lab.tcp import address_text

if TYPE_CHECKING:
    from lab.live.row_types import Head, OfSocket


def head(name: str, time_ns: int) -> "Head":
    """Return the first fields of a row of the schema `name`; `time_ns` is on `CLOCK_MONOTONIC`."""
    return {"schema": f"{name}/{SCHEMA_VERSION}", "time": rfc3339(time_ns), "time_ns": time_ns}


def socket(row: Row) -> "OfSocket":
    """Return the ends of a row of a BPF program: `netns`, `laddr`, `lport`, `raddr`, `rport`. 0 is no port."""
    return {
        "netns": int(row["netns"]) or None,
        "local_address": address_text(bytes(row["laddr"])),
        "local_port": int(row["lport"]) or None,
        "remote_address": address_text(bytes(row["raddr"])),
        "remote_port": int(row["rport"]) or None,
    }
