"""Requests and their layers as a picture: the waterfall of a typical request, and the layers of fast and slow ones."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab.arrays import UNKNOWN, Rows
from lab.errors import LabError
from lab.output.pictures import figure, save
from lab.probes.layers.requests import LEGS
from lab.probes.layers.stages import LAYERS
from lab.probes.layers.text import PERCENTILES, USUALLY_NOTHING, host_of, typical

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # importing it takes half a second, so only plotting does

_AROUND = 0.005  # part of all requests, on either side of a percentile
_COLOURS = ("C5", "C0", "C3", "C1", "C2", "C6", "C8", "C9", "C4", "gold", "slateblue")  # of LAYERS
_ELSEWHERE = "lightgrey"


def draw(path: Path, rows: Rows) -> None:
    """Draw the waterfall of a typical request, and the mean layers of requests by their total time.

    Raises `LabError` if there are no requests or the file cannot be written.
    """
    if not len(rows):
        raise LabError(f"no request was seen, so {path} was not drawn: observe longer, or give another --port")
    drawn = figure(figsize=(11, 10), layout="constrained")
    above, below = drawn.subplots(2, 1, height_ratios=(3, 2))
    _waterfall(above, typical(rows))
    _stack(below, rows)
    save(drawn, path)


def _waterfall(axes: "Axes", row: np.void) -> None:
    labels: list[str] = []
    for leg, name in enumerate(LEGS):
        for layer, what in enumerate(LAYERS):
            lasts_ns = int(row["layers_ns"][leg][layer])
            if lasts_ns != UNKNOWN and (lasts_ns or what not in USUALLY_NOTHING):
                begin_us = (int(row["stops"][leg][layer]) - int(row["time_ns"])) / 1000
                axes.barh(len(labels), lasts_ns / 1000, left=begin_us, color=_COLOURS[layer], height=0.8)
                axes.annotate(
                    f" {lasts_ns / 1000:.1f}", (begin_us + lasts_ns / 1000, len(labels)), va="center", fontsize=7
                )
                labels.append(f"{name}: {what.replace('_', '-')} ({host_of(leg, layer)})")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.set_xlabel("microseconds since the request began")
    axes.set_title(f"The request with the median time, {int(row['total_ns']) / 1000:,.1f} us")
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _stack(axes: "Axes", rows: Rows) -> None:
    """Draw the means of requests with similar total times: percentiles of single layers would not add up to a total."""
    rows = rows[np.argsort(rows["total_ns"], kind="stable")]
    marks = []
    for bar, rank in enumerate(PERCENTILES):
        middle = max(0, -(-len(rows) * rank // 100) - 1)  # as in the table: inverted_cdf
        reach = int(len(rows) * _AROUND)
        some = rows[max(0, middle - reach) : middle + reach + 1]
        times = np.where(some["layers_ns"] == UNKNOWN, 0, some["layers_ns"]).mean(axis=0) / 1000
        parts = [(times[leg][layer], _COLOURS[layer], leg) for leg in range(len(LEGS)) for layer in range(len(LAYERS))]
        left = 0.0
        for part, colour, leg in [*parts, (float(some["elsewhere_ns"].mean()) / 1000, _ELSEWHERE, 0)]:
            axes.barh(bar, part, left=left, color=colour, hatch="//" if leg else None, edgecolor="white", linewidth=0.3)
            left += part
        marks.append(f"p{rank}\n{left:,.1f} us")
    axes.set_yticks(range(len(marks)), marks)
    axes.set_xlim(left=0)
    axes.set_xlabel("microseconds; plain: request, hatched: reply")
    axes.set_title(f"Mean layers of the requests around each percentile of the total time ({len(rows):,} requests)")
    for colour, what in zip((*_COLOURS, _ELSEWHERE), (*LAYERS, "elsewhere"), strict=True):
        axes.barh(0, 0, color=colour, label=what.replace("_", "-"))
    axes.legend(ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18))
