"""The layers of a run's requests for the page: a typical request, and percentiles and a histogram of each layer."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.arrays import UNKNOWN, Rows
from lab.errors import LabError
from lab.log2_histogram import SLOTS, bounds
from lab.output.json_lines import as_json
from lab.probes.layers import text
from lab.probes.layers.perfetto import TRACE
from lab.probes.layers.requests import LEGS
from lab.probes.layers.stages import LAYERS
from lab.report.chart import Bar
from lab.report.raw import Raw
from lab.results.reader import RunFolder
from lab.units import duration_text

_MOST_KEPT = 200  # requests kept as raw rows


@dataclass(frozen=True)
class Step:
    """A layer of the typical request. `begin` and `width` are its place on a strip, in percent of the total time."""

    leg: str
    host: str
    layer: str
    slot: int
    begin: float
    width: float
    time: str


@dataclass(frozen=True)
class Layer:
    """A layer over all requests: its row of `text.summary` with times as text, and its histogram as bars on a strip."""

    summary: dict[str, Any]
    bars: list[Bar]


@dataclass(frozen=True)
class Layers:
    """The layers of a run's requests. `refused` says why the recordings cannot be read; otherwise it is empty."""

    requests: int = 0
    title: str = ""
    steps: tuple[Step, ...] = ()
    layers: tuple[Layer, ...] = ()
    typical: str = ""
    raw: str = ""
    trace: str | None = None
    refused: str = ""


def of(run: RunFolder, raw: Raw) -> Layers | None:
    """Return the layers of a run; None if it has no recording or no request."""
    try:
        rows = run.requests()
    except LabError as error:
        return Layers(refused=str(error))
    if not len(rows):
        return None
    one = text.typical(rows)
    files = run.recordings
    names = ", ".join(file.name for file in files)
    note = f"`lab layers --json --recording FILE` prints all requests ({len(rows):,} in {names})"
    lines = [(None, as_json(row)) for row in text.as_dicts(rows[:_MOST_KEPT])]
    trace = run.path / TRACE
    return Layers(
        len(rows),
        next(text.waterfall(one)),
        tuple(_steps(one)),
        tuple(_layers(rows)),
        raw.add("the typical request", files[0], [(None, as_json(next(text.as_dicts(np.atleast_1d(one)))))], note),
        raw.add("requests", files[0], lines, note),
        raw.link(trace) if trace.exists() else None,
    )


def _steps(row: np.void) -> list[Step]:
    total = max(1, int(row["total_ns"])) / 100
    return [
        Step(
            name,
            text.host_of(leg, layer),
            what.replace("_", "-"),
            layer,
            round((int(row["stops"][leg][layer]) - int(row["time_ns"])) / total, 2),
            round(max(0.4, lasts_ns / total), 2),
            duration_text(lasts_ns),
        )
        for leg, name in enumerate(LEGS)
        for layer, what in enumerate(LAYERS)
        if (lasts_ns := int(row["layers_ns"][leg][layer])) != UNKNOWN and (lasts_ns or what not in text.USUALLY_NOTHING)
    ]


def _layers(rows: Rows) -> list[Layer]:
    found = []
    for summary in text.summary(rows):
        if summary["layer"] in LAYERS:
            times = rows["layers_ns"][:, LEGS.index(str(summary["leg"])), LAYERS.index(str(summary["layer"]))]
        else:
            times = rows[f"{summary['layer']}_ns"]
        counts = text.counts(times[times != UNKNOWN])
        texts = {
            name: duration_text(int(value))
            for name, value in summary.items()
            if name.endswith("_ns") and isinstance(value, int)
        }
        found.append(Layer(summary | texts | {"layer": str(summary["layer"]).replace("_", "-")}, _bars(counts)))
    return found


def _bars(counts: Any) -> list[Bar]:
    width = 100 / SLOTS
    return [
        Bar(
            round(slot * width + 0.2, 2),
            round(10 - 10 * number / counts.max(), 2),
            round(width - 0.4, 2),
            round(10 * number / counts.max(), 2),
            bad=False,
            text=f"{number:,} from {bounds(slot)[0]:,} to {bounds(slot)[1]:,} ns",
        )
        for slot, number in enumerate(counts.tolist())
        if number
    ]
