"""Requests and their layers as a trace in the Trace Event Format, for ui.perfetto.dev and other viewers."""

import json
from collections.abc import Iterator
from heapq import heappush, heapreplace
from pathlib import Path

import numpy as np

from lab.arrays import UNKNOWN, Rows
from lab.output.file import replacing
from lab.probes.layers.requests import LEGS
from lab.probes.layers.stages import LAYERS
from lab.probes.layers.text import host_of
from lab.tcp import address_text, endpoint

TRACE = "layers.json"
"""Name of the trace in the folder of a run."""

HOSTS = ("client", "wire", "server")
MOST_REQUESTS = 10_000
"""Limit of requests in a trace: about 50 MB."""


def trace(rows: Rows) -> dict[str, object]:
    """Return the first `MOST_REQUESTS` requests in the Trace Event Format: a slice for each request and layer.

    Times are microseconds on CLOCK_MONOTONIC. Each layer has a track. Slices of a track do not overlap: a layer with
    several requests at once has several tracks.
    """
    return {"traceEvents": [*_names(), *_slices(rows[:MOST_REQUESTS])], "displayTimeUnit": "ns"}


def write_trace(path: Path, rows: Rows) -> None:
    """Write the trace of requests to a file, as JSON. Raises `LabError` if the file cannot be written."""
    with replacing(path) as file:
        json.dump(trace(rows), file)


def _names() -> Iterator[dict[str, object]]:
    for number, host in enumerate(HOSTS, 1):
        yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": host}}
        yield {"ph": "M", "name": "process_sort_index", "pid": number, "args": {"sort_index": number}}


def _slices(rows: Rows) -> Iterator[dict[str, object]]:
    for leg, name in enumerate(LEGS):
        for layer, what in enumerate(LAYERS):
            host = HOSTS.index(host_of(leg, layer)) + 1
            begins, times = rows["stops"][:, leg, layer], rows["layers_ns"][:, leg, layer]
            shown = np.flatnonzero(times != UNKNOWN)
            shown = shown[np.argsort(begins[shown], kind="stable")]
            free_ns: list[tuple[int, int]] = []  # when each track becomes free, and its number
            for index in shown.tolist():
                begin_ns, lasts_ns = int(begins[index]), int(times[index])
                if free_ns and free_ns[0][0] <= begin_ns:
                    track = free_ns[0][1]
                    heapreplace(free_ns, (begin_ns + lasts_ns, track))
                else:
                    track = len(free_ns)
                    heappush(free_ns, (begin_ns + lasts_ns, track))
                    yield from _track(host, leg, layer, track, f"{name} {what}")
                row = rows[index]
                yield {
                    "ph": "X",
                    "name": what,
                    "cat": name,
                    "pid": host,
                    "tid": _tid(leg, layer, track),
                    "ts": begin_ns / 1000,
                    "dur": lasts_ns / 1000,
                    "args": {
                        "client": endpoint(address_text(row["caddr"].tobytes()), int(row["cport"])),
                        "request": index,
                        "bytes": int(row["bytes"][leg]),
                        "sent": int(row["sent"][leg]),
                    },
                }


def _tid(leg: int, layer: int, track: int) -> int:
    return ((leg * len(LAYERS) + layer) << 16) + track + 1


def _track(host: int, leg: int, layer: int, track: int, name: str) -> Iterator[dict[str, object]]:
    tid = _tid(leg, layer, track)
    shown = f"{name} ({track + 1})" if track else name
    yield {"ph": "M", "name": "thread_name", "pid": host, "tid": tid, "args": {"name": shown}}
    yield {"ph": "M", "name": "thread_sort_index", "pid": host, "tid": tid, "args": {"sort_index": tid}}
