"""Metrics of `lab layers`: the time of requests, in each layer and as a whole."""

import argparse

import numpy as np
import numpy.typing as npt

from lab.arrays import UNKNOWN, Integers, Rows
from lab.errors import LabError
from lab.live.metrics import Counter, Family, Histogram, Label, decades, field
from lab.probes.layers.requests import LEGS, Kind, are_requests
from lab.probes.layers.stages import LAYERS
from lab.probes.layers.text import host_of
from lab.units import MS, SECOND

NOT_SERVED = ("packets", "summary", "top", "interval", "waterfall", "histogram", "perfetto", "plot", "recording")
"""Options that show anything but requests as they come."""

_BOUNDS_NS = decades(MS // 1000, 10 * SECOND)
_PLACES = [(leg, layer, host_of(LEGS.index(leg), index)) for leg in LEGS for index, layer in enumerate(LAYERS)]
_PLACES += [("", "elsewhere", "")]


def families(args: argparse.Namespace) -> list[Family]:
    """Return the metrics. Raises `LabError` for options that show anything but requests as they come."""
    if given := [f"--{name}" for name in NOT_SERVED if getattr(args, name)]:
        raise LabError(f"--metrics counts requests as they come: leave out {' and '.join(given)}")
    place = {
        "leg": Label(_places, lambda index: _PLACES[index][0]),
        "layer": Label(_places, lambda index: _PLACES[index][1]),
        "host": Label(_places, lambda index: _PLACES[index][2]),
    }
    return [
        Histogram(
            "tcp_request_seconds",
            "Time from the first write() of a request to the last read() of its reply, as far as it was observed",
            {},
            lambda rows: np.where(are_requests(rows), rows["total_ns"], UNKNOWN),
            _BOUNDS_NS,
        ),
        Histogram(
            "tcp_request_layer_seconds",
            "Time of requests in each layer",
            place,
            _times_ns,
            _BOUNDS_NS,
        ),
        Counter(
            "tcp_requests",
            "Requests, and other exchanges",
            {"kind": field("kind", lambda kind: Kind(kind).name.lower())},
        ),
    ]


def _places(rows: Rows) -> npt.NDArray[np.uint8]:
    """Return the index in `_PLACES` of each time of `_times_ns`."""
    return np.tile(np.arange(len(_PLACES), dtype=np.uint8), len(rows))


def _times_ns(rows: Rows) -> Integers:
    """Return the times of all layers of the first row, then those of the second, and so on."""
    times_ns = np.column_stack([rows["layers_ns"].reshape(len(rows), -1), rows["elsewhere_ns"]])
    times_ns[~are_requests(rows)] = UNKNOWN
    return times_ns.ravel()
