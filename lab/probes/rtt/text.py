"""Round-trip times as text: the histogram of each group of connections, and its row for CSV."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lab.clock import time_of_day
from lab.live import fields
from lab.log2_histogram import picture
from lab.probes.rtt import measure
from lab.probes.rtt.measure import Kind, all_together, bucket_us, of_hosts, quantile_us, slots_of
from lab.tcp import address_text, endpoint

if TYPE_CHECKING:
    from lab.observation import Observed  # imports the topology, which a live tool does not need
    from lab.probes.rtt.rows import Bucket, Histogram


def as_dict(row: np.void, unit_us: int = 1) -> "Histogram":
    """Return one row under the names that `--json` uses, with the time of this call.

    None stands for a field of which the group has several values, and for the statistics of an empty row.
    """
    count = int(row["count"])
    (p50_low, p50_high), (p99_low, p99_high) = (
        quantile_us(row, share, unit_us) if count else (None, None) for share in measure.QUANTILES.values()
    )
    return {
        **fields.head("rtt", time.monotonic_ns()),
        "netns": int(row["netns"]) or None,
        "local_address": _address(row["laddr"]),
        "local_port": int(row["lport"]) or None,
        "remote_address": _address(row["raddr"]),
        "remote_port": int(row["rport"]) or None,
        "kind": Kind(row["kind"]).name.lower(),
        "count": count,
        "sum_us": int(row["sum_us"]),
        "min_us": int(row["min_us"]) if count else None,
        "max_us": int(row["max_us"]) if count else None,
        "p50_low_us": p50_low,
        "p50_high_us": p50_high,
        "p99_low_us": p99_low,
        "p99_high_us": p99_high,
        "unclear": int(row["unclear"]),
        "distorted": int(row["distorted"]),
        "buckets": [_bucket(slot, number, unit_us) for slot, number in enumerate(row["slots"].tolist()) if number],
    }


def _bucket(slot: int, count: int, unit_us: int) -> "Bucket":
    low_us, high_us = bucket_us(slot, unit_us)
    return {"low_us": low_us, "high_us": high_us, "count": count}


def _address(octets: np.ndarray) -> str | None:
    return address_text(octets.tobytes()) if octets.any() else None


def csv_row(values: "Histogram", unit_us: int) -> dict[str, object]:
    """Return a row with one column per bucket, named by the bounds of the bucket."""
    counts = enumerate(slots_of(values["buckets"], unit_us))
    columns = {"{}-{}_us".format(*bucket_us(slot, unit_us)): count for slot, count in counts}
    return {name: value for name, value in values.items() if name != "buckets"} | columns


def block(values: "Histogram", unit_us: int = 1, *, show_ext: bool = False, timestamp: bool = False) -> Iterator[str]:
    """Yield the lines of one histogram."""
    unit = "msecs" if unit_us > 1 else "usecs"
    if timestamp:
        yield time_of_day(values["time_ns"])
    yield f"Key: {_key(values)}"
    if values["count"]:
        figures = {name: _time(value, unit_us) for name, value in values.items() if isinstance(value, int)}
        yield f"Latency = {values['sum_us'] / values['count'] / unit_us:.3f} {unit}, Cnt = {values['count']}"
        if show_ext:
            yield f"Sum = {figures['sum_us']} {unit}, Max = {figures['max_us']} {unit}"
        quantiles = (
            f"{name} {figures[f'{name}_low_us']} -> {figures[f'{name}_high_us']}" for name in measure.QUANTILES
        )
        yield f"min {figures['min_us']}, {', '.join(quantiles)} {unit}"
    if values["unclear"]:
        yield f"unclear: {values['unclear']} samples"
    if values["distorted"]:
        yield f"distorted: {values['distorted']} samples"
    yield from picture(slots_of(values["buckets"], unit_us), unit)
    yield ""


def _time(value_us: int, unit_us: int) -> str:
    return f"{value_us / unit_us:.3f}" if unit_us > 1 else str(value_us)


def _key(values: "Histogram") -> str:
    """Return the connections of a histogram as text."""
    netns_text = f" in netns {values['netns']}"
    local, remote = values["local_address"], values["remote_address"]
    if values["local_port"]:
        return f"{endpoint(local, values['local_port'])} -> {endpoint(remote, values['remote_port'])}{netns_text}"
    for name, address in (("local", local), ("remote", remote)):
        if address:
            return f"{name} {address}{netns_text}"
    return "all connections"


def table(observed: "Observed") -> Iterator[str]:
    """Yield the lines that the live tool would have printed for both hosts, without and with --raw."""
    for row in all_together(of_hosts(observed.recording.totals["rtt"], observed.inodes)):
        yield f"{'smoothed RTT' if row['kind'] == Kind.SRTT else 'RTT samples (--raw)'}, both hosts"
        yield from block(as_dict(row))
