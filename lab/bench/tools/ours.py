"""This project's own probes: `lab <probe> --json`."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from lab.bench.tools import (
    CHANGES,
    DURATION,
    FLOWS,
    FRAMES,
    NATIVE,
    PACKETS,
    RTT,
    SEGMENTS,
    STATES,
    FlowRow,
    LifeRow,
    Row,
    RttRow,
    Scope,
    StateRow,
    Tool,
)
from lab.log2_histogram import slot_of
from lab.paths import LAB


def _command(probe: str, scope: Scope, *, on_device: bool, options: tuple[str, ...]) -> list[str]:
    """Return the command line. Probes of sockets observe the whole machine, as the peers do."""
    command = [*LAB, probe, "--json", *options]
    if on_device:
        command += ["-i", scope.ifname, *(["--netns", scope.netns] if scope.netns else [])]
    if scope.lport is not None:
        command += ["-L", str(scope.lport)]
    if scope.rport is not None and probe == RTT:
        command += ["-P", str(scope.rport)]
    return command


def _lines(row_of: Callable[[dict[str, Any]], Row], output: str) -> Iterator[Row]:
    """Parse JSON Lines. The last line may be incomplete, or the account of what was missed."""
    for line in output.splitlines():
        if line.endswith("}") and (row := json.loads(line)).get("kind") != "account":
            yield row_of(row)


def _state(row: dict[str, Any]) -> StateRow:
    return StateRow(
        row["skaddr"], row["pid"], row["laddr"], row["lport"], row["raddr"], row["rport"],
        row["oldstate"], row["newstate"], row["duration_ns"],
    )  # fmt: skip


def _life(row: dict[str, Any]) -> LifeRow:
    return LifeRow(row["saddr"], row["sport"], row["daddr"], row["dport"], row["duration_ns"])


def _rtt(row: dict[str, Any]) -> RttRow:
    slots = {slot_of(bucket["low_us"]): bucket["count"] for bucket in row["buckets"] if bucket["count"]}
    mean_ns = row["sum_us"] * 1000 / row["count"] if row["count"] else float("nan")
    return RttRow(row["raddr"] or row["laddr"] or "", row["count"], mean_ns, slots)


def _flow(row: dict[str, Any]) -> FlowRow:
    return FlowRow(row["protocol"], str(row["source"]), str(row["destination"]), row["packets"], row["bytes"])


def _packet(row: dict[str, Any]) -> FlowRow:
    ports = None if row["sport"] is None else (row["sport"], row["dport"])
    return FlowRow(
        row["protocol"] or row["ethertype"], row["saddr"] or "", row["daddr"] or "", 1, row["frame_length"], ports
    )


def _tool(
    name: str, kind: str, at: str, read: Callable[[str], Iterator[Row]], *options: str, samples: bool = False
) -> Tool:
    probe, *own_options = name.split()
    command = partial(_command, probe, on_device=at == FRAMES, options=(*own_options, *options))
    return Tool(f"lab {name}", kind, command, read, at, samples=samples, ours=True, unit_ns=1)


TOOLS = (
    _tool("states", STATES, CHANGES, partial(_lines, _state)),
    _tool("duration", DURATION, FRAMES, partial(_lines, _life)),
    _tool("rtt", RTT, SEGMENTS, partial(_lines, _rtt), "-B", "-i", "3600"),
    _tool("rtt --raw", RTT, SEGMENTS, partial(_lines, _rtt), "-B", "-i", "3600", samples=True),
    _tool("flows", FLOWS, FRAMES, partial(_lines, _flow), "--interval", "3600"),
    _tool("packets", PACKETS, FRAMES, partial(_lines, _packet), "--all"),
    _tool("packets --mode native", NATIVE, FRAMES, partial(_lines, _packet), "--all"),
)
