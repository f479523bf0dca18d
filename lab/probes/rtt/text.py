"""Round-trip times as text: the histogram of each group of connections, and its row for CSV."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lab.clock import time_of_day
from lab.log2_histogram import picture
from lab.probes.rtt import measure
from lab.probes.rtt.measure import Kind, all_together, as_dict, bucket_us, of_hosts, slots_of
from lab.tcp import endpoint

if TYPE_CHECKING:
    from lab.observation import Observed  # imports the topology, which a live tool does not need


def csv_row(values: dict[str, Any], unit_us: int) -> dict[str, object]:
    """Return a row with one column per bucket, named by the bounds of the bucket."""
    counts = enumerate(slots_of(values["buckets"], unit_us))
    columns = {"{}-{}_us".format(*bucket_us(slot, unit_us)): count for slot, count in counts}
    return {name: value for name, value in values.items() if name != "buckets"} | columns


def block(
    values: dict[str, Any], unit_us: int = 1, *, show_ext: bool = False, timestamp: bool = False
) -> Iterator[str]:
    """Yield the lines of one histogram."""
    unit = "msecs" if unit_us > 1 else "usecs"
    if timestamp:
        yield time_of_day(values["time_ns"])
    yield f"Key: {_key(values)}"
    if values["count"]:
        figures = {name: _time(values[name], unit_us) for name in values if name.endswith("_us")}
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


def _key(values: dict[str, Any]) -> str:
    """Return the connections of a histogram as text."""
    netns_text = f" in netns {values['netns']}"
    if values["lport"]:
        local, remote = (endpoint(values[f"{side}addr"], values[f"{side}port"]) for side in "lr")
        return f"{local} -> {remote}{netns_text}"
    for side, name in (("l", "local"), ("r", "remote")):
        if values[f"{side}addr"]:
            return f"{name} {values[f'{side}addr']}{netns_text}"
    return "all connections"


def table(observed: "Observed") -> Iterator[str]:
    """Yield the lines that the live tool would have printed for both hosts, without and with --raw."""
    for row in all_together(of_hosts(observed.recording.totals["rtt"], observed.inodes)):
        yield f"{'smoothed RTT' if row['kind'] == Kind.SRTT else 'RTT samples (--raw)'}, both hosts"
        yield from block(as_dict(row))
