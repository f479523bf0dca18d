"""Coordinates of bars, curves and brackets.

What lives here: the geometry. What does not: HTML and SVG elements, which the templates write. A strip stretches with
the page and is 100 wide and 10 high. A picture with text has a fixed size in pixels.
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
_MARGIN = 10.0  # at each side of a bracket, for values outside
_CURVE_POINTS = 160
_PER_DECADE = 2  # bins of an error's histogram
_DECADES = 11  # from 1 ns to 100 s
_POSITIONS = 20  # bins of a bracket
_FAR = 20  # ratio of largest to smallest value above which a scale is logarithmic


@dataclass(frozen=True)
class Tick:
    """A place on an axis and its label."""

    at: float
    text: str


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram: its rectangle, its description, and whether it counts failed checks (`bad`)."""

    x: float
    y: float
    width: float
    height: float
    bad: bool
    text: str


@dataclass(frozen=True)
class Line:
    """A curve: its name, the number of its colour, and its SVG path."""

    name: str
    slot: int
    path: str


@dataclass(frozen=True)
class Plot:
    """A picture with axes; `left`, `right`, `top` and `bottom` bound the area inside the axes."""

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
    """A linear or logarithmic mapping from values (`low` to `high`) to places (`first` to `last`)."""

    low: float
    high: float
    first: float
    last: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value, clamped to the ends of the scale."""
        low, high, value = (
            np.log10([self.low, self.high, max(value, self.low)]) if self.logarithmic else (self.low, self.high, value)
        )
        share = (value - low) / (high - low) if high > low else 0.5
        return round(float(self.first + (self.last - self.first) * min(1.0, max(0.0, share))), 2)


def cumulative(errors: Mapping[str, Numbers], slots: Mapping[str, int]) -> Plot | None:
    """Draw the cumulative distribution of absolute errors (ns), a curve for each name; None if there are no errors.

    The scale is logarithmic from 1 ns; smaller errors are at its left end.
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
    """Draw a histogram of errors (ns) with logarithmic bins, negative errors to the left; None without errors."""
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
    """Draw a line for each name through its pairs of (condition, value).

    The scale of the condition (for example the number of connections) is logarithmic if all conditions are above 0.
    """
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
    """Draw a histogram of places in the bracket (0 to 1) as a strip, and one bar each for `below` and `above`."""
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
            text=f"{count:,} at {100 * number // _POSITIONS} to {100 * (number + 1) // _POSITIONS} % of the bracket",
        )
        for number, count in enumerate(counts.tolist())
        if count
    ]
    outside = ((below, 1.0, "below the bracket"), (above, _STRIP - _MARGIN + 3, "above the bracket"))
    return bars + [Bar(x, 0, 6, 10, bad=True, text=f"{count:,} {what}") for count, x, what in outside if count]


def bracket(check: Check) -> tuple[float, float, float] | None:
    """Return the places on a strip of the bracket's start, of its end, and of the value; None if they are not numbers."""
    low, high, measured = check.low, check.high, check.measured
    if not (isinstance(low, int) and isinstance(high, int) and isinstance(measured, int)):
        return None
    return strip(low, high, measured)


def strip(low: int, high: int, value: float) -> tuple[float, float, float]:
    """Return the places on a strip of an interval's ends and of a value.

    The scale includes the value, so a value far outside makes the interval small.
    """
    if low == high == value:
        return (50.0, 50.0, 50.0)
    first, last = min(low, high, value), max(low, high, value)
    scale = Scale(0, 1, _MARGIN, _STRIP - _MARGIN)
    places = (scale.at((it - first) / (last - first)) for it in (low, high, value))
    return next(places), next(places), next(places)


def share_scale(values: Sequence[float]) -> Scale:
    """Return a strip's scale that includes all values: from 0, or logarithmic if they are far apart."""
    largest = max(values, default=1.0)
    least = min((value for value in values if value > 0), default=1.0)
    if min(values, default=0.0) > 0 and largest / least > _FAR:
        return Scale(least / 1.5, largest * 1.5, 0, _STRIP, logarithmic=True)
    return Scale(min([0.0, *values]), largest * 1.05 or 1.0, 0, _STRIP)


def round_time(ns: float) -> str:
    """Return a round time as text without decimals: `10 us`."""
    number, _, unit = duration_text(round(ns)).partition(" ")
    return f"{float(number):g} {unit}"


def _shares(up: Scale) -> list[Tick]:
    return [Tick(up.at(share), f"{share:.0%}") for share in (0, 0.5, 0.9, 1)]


def _upwards(values: Sequence[float]) -> tuple[Scale, list[Tick]]:
    """Return a vertical scale and its ticks: from 0, or by decades if the values are far apart."""
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
