"""The picture of requests: every bar has the length and the place of its layer."""

from types import SimpleNamespace

import pytest
from support.made.layers import CLIENT_NETNS, FLOW, PORT, SERVER_NETNS, Network, points, talk

from lab.probes.layers import plot
from lab.probes.layers.requests import LEGS, requests
from lab.probes.layers.stages import LAYERS, Stages
from lab.probes.layers.text import PERCENTILES, USUALLY_NOTHING


class Axes:
    """Axes that keep what is drawn on them."""

    def __init__(self):
        self.bars, self.notes, self.ticks, self.limits, self.title = [], [], [], {}, ""

    def barh(self, row, width, left=0.0, **look):
        """Keep a bar."""
        self.bars.append((row, width, left, look))

    def annotate(self, text, place, **_):
        """Keep a note."""
        self.notes.append((text, place))

    def set_yticks(self, places, labels, **_):
        """Keep the names of the rows."""
        self.ticks = list(zip(places, labels, strict=True))

    def set_title(self, text):
        """Keep the title."""
        self.title = text

    def set_xlim(self, **limits):
        """Keep the limits."""
        self.limits = limits

    def __getattr__(self, name):
        return lambda *_, **__: None


@pytest.fixture(params=[1, 3, 400])
def drawn(request, monkeypatch, tmp_path):
    """Return the rows of some requests, and both parts of their picture."""
    network = Network(5)
    network.open(FLOW, 8, 9)
    talk(network, FLOW, (8, 9), min(request.param, 8))
    rows = requests(Stages(points(*network.rows), (CLIENT_NETNS, SERVER_NETNS)), PORT).rows
    rows = rows[[number % len(rows) for number in range(request.param)]]
    parts = Axes(), Axes()
    monkeypatch.setattr(plot, "figure", lambda **_: SimpleNamespace(subplots=lambda *_, **__: parts))
    monkeypatch.setattr(plot, "save", lambda *_: None)
    plot.draw(tmp_path / "x.png", rows)
    return rows, *parts


def test_the_typical_request(drawn):
    """Its bars follow each other without a gap, and together last as long as the request; each names its layer and time."""
    rows, above, _ = drawn
    bars = [(left, width) for _, width, left, _ in above.bars]
    total_us = sum(width for _, width in bars)
    assert total_us in [pytest.approx(row["total_ns"] / 1000) for row in rows]
    assert bars[0][0] == 0
    assert [left for left, _ in bars[1:]] == pytest.approx([left + width for left, width in bars[:-1]])
    assert [row for row, *_ in above.bars] == [place for place, _ in above.ticks] == list(range(len(bars)))
    assert [note for note, _ in above.notes] == [f" {width:.1f}" for _, width in bars]
    assert [place for _, place in above.notes] == [
        (pytest.approx(left + width), number) for number, (left, width) in enumerate(bars)
    ]
    every = [f"{leg}: {layer.replace('_', '-')} (" for leg in LEGS for layer in LAYERS]
    shown = [next(name for name in every if label.startswith(name)) for _, label in above.ticks]
    assert shown == [name for name in every if name in shown]
    assert {name.split()[1].replace("-", "_") for name in set(every) - set(shown)} <= set(USUALLY_NOTHING)
    assert above.title == f"The request with the median time, {total_us:,.1f} us"


def test_the_mean_layers(drawn):
    """Of each percentile the bars add up to the total of requests around it, each in the colour of its layer."""
    rows, _, below = drawn
    totals = sorted(rows["total_ns"] / 1000)
    assert below.limits == {"left": 0}
    colours = {}
    for number, (rank, (place, label)) in enumerate(zip(PERCENTILES, below.ticks, strict=True)):
        bars = [(width, left, look) for row, width, left, look in below.bars if row == number and "label" not in look]
        assert len(bars) == len(LEGS) * len(LAYERS) + 1
        assert [left for _, left, _ in bars] == pytest.approx(
            [sum(it[0] for it in bars[:at]) for at in range(len(bars))]
        )
        middle = -(-len(totals) * rank // 100) - 1
        near = totals[max(0, middle - len(totals) // 200) : middle + len(totals) // 200 + 1]
        assert sum(it[0] for it in bars) == pytest.approx(sum(near) / len(near))
        assert (place, label) == (number, f"p{rank}\n{sum(near) / len(near):,.1f} us")
        assert [look["hatch"] for _, _, look in bars] == [None] * len(LAYERS) + ["//"] * len(LAYERS) + [None]
        colours = [look["color"] for _, _, look in bars]
        assert colours[: len(LAYERS)] == colours[len(LAYERS) : -1]
    legend = {look["label"]: look["color"] for *_, look in below.bars if "label" in look}
    assert list(legend) == [*(layer.replace("_", "-") for layer in LAYERS), "elsewhere"]
    assert list(legend.values()) == [*colours[: len(LAYERS)], colours[-1]]
    assert f"({len(rows):,} requests)" in below.title
