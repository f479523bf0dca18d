"""Pictures as numbers: where bars, curves and brackets lie. The templates draw them; nothing here knows HTML.

Strips that stretch with the page are 100 wide and 10 high. Pictures with text have a size of their own, in pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lab.units import compact, duration_text
from lab.verdict import Check

Numbers = npt.NDArray[np.float64]

WIDTH, HEIGHT = 380, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 20, 8, 24

_STRIP = 100.0
_MARGIN = 10.0  # beside a bracket, for values outside
_CURVE_POINTS = 160
_PER_DECADE = 2  # bins of an error's histogram
_DECADES = 11  # from a nanosecond: up to 100 s
_POSITIONS = 20  # bins of a bracket
_FAR = 20  # times: a scale of values further apart than that is logarithmic


@dataclass(frozen=True)
class Tick:
    """A place on an axis, and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram: where it stands, and what it counts."""

    x: float
    y: float
    width: float
    height: float
    bad: bool
    text: str


@dataclass(frozen=True)
class Line:
    """A curve: its name, the number of its colour, and its path in the words of SVG."""

    name: str
    slot: int
    path: str


@dataclass(frozen=True)
class Plot:
    """A picture with axes."""

    x: list[Tick]
    y: list[Tick]
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class Scale:
    """From values to places between `first` and `last`, by their logarithm or not."""

    low: float
    high: float
    first: float
    last: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value; the nearest end for one that lies beyond."""
        low, high, value = (
            np.log10([self.low, self.high, max(value, self.low)]) if self.logarithmic else (self.low, self.high, value)
        )
        share = (value - low) / (high - low) if high > low else 0.5
        return round(float(self.first + (self.last - self.first) * min(1.0, max(0.0, share))), 2)


def cumulative(errors: Mapping[str, Numbers], slots: Mapping[str, int]) -> Plot | None:
    """Draw for each name which share of its errors (ns) is no larger than what; None where nobody has any.

    Errors count by their size, whatever their sign. The scale is logarithmic, and nothing is at its left end.
    """
    sizes = {name: np.sort(np.abs(values)) for name, values in errors.items() if len(values)}
    if not sizes:
        return None
    largest = max(10.0, *(float(values[-1]) for values in sizes.values()))
    decades = int(np.ceil(np.log10(largest)))
    across = Scale(1, 10.0**decades, _LEFT, WIDTH - _RIGHT, logarithmic=True)
    up = Scale(0, 1, HEIGHT - _BOTTOM, _TOP)
    lines = []
    for name, values in sizes.items():
        ranks = np.unique(np.linspace(0, len(values) - 1, _CURVE_POINTS).round().astype(int))
        corners = [f"{across.at(float(values[rank]))} {up.at((rank + 1) / len(values))}" for rank in ranks]
        lines.append(Line(name, slots[name], "M" + "L".join([f"{across.at(float(values[0]))} {up.at(0)}", *corners])))
    step = 1 if decades <= 5 else 3
    ticks = [Tick(across.at(10**decade), round_time(10**decade)) for decade in range(0, decades + 1, step)]
    return Plot(ticks, _shares(up), lines)


def signed(errors: Numbers) -> Plot | None:
    """Draw how often errors (ns) of each size are, below nothing to the left and above it to the right; None where there are none."""
    if not len(errors):
        return None
    sizes = np.abs(errors)
    bins = np.where(
        sizes < 1,
        0,
        np.minimum(np.log10(np.maximum(sizes, 1)) * _PER_DECADE, _DECADES * _PER_DECADE - 1).astype(int) + 1,
    )
    bins = bins * np.sign(errors).astype(int)
    reach = max(6 * _PER_DECADE, int(np.abs(bins).max()))
    counts = np.bincount(bins + reach, minlength=2 * reach + 1)
    across = Scale(-reach - 0.5, reach + 0.5, _LEFT, WIDTH - _RIGHT)
    up = Scale(0, float(counts.max()), HEIGHT - _BOTTOM, _TOP)
    bars = [
        Bar(
            across.at(place - 0.46),
            up.at(float(counts[place + reach])),
            round(across.at(place + 0.46) - across.at(place - 0.46), 2),
            round(up.at(0) - up.at(float(counts[place + reach])), 2),
            bad=False,
            text=f"{counts[place + reach]:,} errors {_bin_text(place)}",
        )
        for place in range(-reach, reach + 1)
        if counts[place + reach]
    ]
    ticks = [Tick(across.at(0), "0")]
    for decade in range(3, reach // _PER_DECADE + 1, 3):
        ticks += [
            Tick(across.at(sign * (decade * _PER_DECADE + 0.5)), f"{'-' if sign < 0 else ''}{round_time(10**decade)}")
            for sign in (-1, 1)
        ]
    return Plot(ticks, [Tick(up.at(0), "0"), Tick(up.at(float(counts.max())), compact(int(counts.max())))], bars=bars)


def series(points: Mapping[str, Sequence[tuple[float, float]]], slots: Mapping[str, int]) -> Plot:
    """Draw values (second of each pair) against a condition (first): more connections, say. The condition's scale is logarithmic."""
    places = sorted({x for pairs in points.values() for x, _ in pairs})
    values = [y for pairs in points.values() for _, y in pairs]
    across = Scale(places[0], places[-1], _LEFT + 8, WIDTH - _RIGHT - 8, logarithmic=places[0] > 0)
    up, ticks = _upwards(values)
    lines = [
        Line(name, slots[name], "M" + "L".join(f"{across.at(x)} {up.at(y)}" for x, y in sorted(pairs)))
        for name, pairs in points.items()
    ]
    return Plot(
        [Tick(across.at(x), compact(x)) for x in places],
        ticks,
        lines,
    )


def positions(where: Numbers, below: int, above: int) -> list[Bar]:
    """Draw where in their brackets values lie, as a strip: low end to high end, and apart from that those `below` and `above`."""
    counts = np.histogram(where, _POSITIONS, (0, 1))[0]
    largest = max(1, int(counts.max()))
    width = (_STRIP - 2 * _MARGIN) / _POSITIONS
    bars = [
        Bar(
            _MARGIN + number * width + 0.2,
            round(10 - 10 * count / largest, 2),
            width - 0.4,
            round(10 * count / largest, 2),
            bad=False,
            text=f"{count:,} between {100 * number // _POSITIONS} % and {100 * (number + 1) // _POSITIONS} % of the bracket",
        )
        for number, count in enumerate(counts.tolist())
        if count
    ]
    outside = ((below, 1.0, "below the bracket"), (above, _STRIP - _MARGIN + 3, "above the bracket"))
    return bars + [Bar(x, 0, 6, 10, bad=True, text=f"{count:,} {what}") for count, x, what in outside if count]


def bracket(check: Check) -> tuple[float, float, float] | None:
    """Return where in a strip the bracket begins and ends, and where the value is; None where they are no numbers.

    The strip holds both: of a value far outside, the bracket is a small thing at the other end.
    """
    low, high, measured = check.low, check.high, check.measured
    if not (isinstance(low, int) and isinstance(high, int) and isinstance(measured, int)):
        return None
    if low == high == measured:
        return (50.0, 50.0, 50.0)
    first, last = min(low, measured), max(high, measured)
    scale = Scale(0, 1, _MARGIN, _STRIP - _MARGIN)
    places = (scale.at((value - first) / (last - first)) for value in (low, high, measured))
    return next(places), next(places), next(places)


def share_scale(values: Sequence[float]) -> Scale:
    """Return the scale of a strip on which all values have a place: from nothing, or logarithmic where they are far apart."""
    largest = max(values, default=1.0)
    least = min((value for value in values if value > 0), default=1.0)
    if min(values, default=0.0) > 0 and largest / least > _FAR:
        return Scale(least / 1.5, largest * 1.5, 0, _STRIP, logarithmic=True)
    return Scale(min([0.0, *values]), largest * 1.05 or 1.0, 0, _STRIP)


def round_time(ns: float) -> str:
    """Write a round time without digits that say nothing: `10 us`."""
    number, _, unit = duration_text(round(ns)).partition(" ")
    return f"{float(number):g} {unit}"


def _shares(up: Scale) -> list[Tick]:
    return [Tick(up.at(share), f"{share:.0%}") for share in (0, 0.5, 0.9, 1)]


def _upwards(values: Sequence[float]) -> tuple[Scale, list[Tick]]:
    """Return a scale from below upwards, and its ticks: from nothing, or by decades where values are far apart."""
    low, high = min(values, default=0.0), max(values, default=1.0) or 1.0
    if low > 0 and high / low > _FAR:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        up = Scale(10.0 ** decades[0], 10.0 ** decades[-1], HEIGHT - _BOTTOM, _TOP, logarithmic=True)
        return up, [Tick(up.at(10.0**decade), compact(10.0**decade)) for decade in decades]
    up = Scale(min(0.0, low), high, HEIGHT - _BOTTOM, _TOP)
    return up, [Tick(up.at(share * high), compact(share * high)) for share in (0, 0.5, 1)]


def _bin_text(place: int) -> str:
    if not place:
        return "below 1 ns"
    edges = [
        round_time(round(10 ** ((abs(place) + more) / _PER_DECADE), -max(0, (abs(place) - 1) // _PER_DECADE - 1)))
        for more in (-1, 0)
    ]
    return f"of {'-' if place < 0 else '+'}{edges[0]} to {edges[1]}"
