"""Measurements of the bench: the values derived from samples, and the file."""

import math

import numpy as np
import pytest

from lab.errors import LabError
from lab.results import measurement
from lab.results.measurement import Goal, Measurement


def test_a_row_survives_its_file(tmp_path):
    """A measurement written and read again is equal, with goal, conditions and refusal."""
    rows = [
        Measurement(
            "start",
            "lab states",
            "first event possible",
            "ms",
            [3.0, 1.0, 2.0],
            {"cold": True},
            Goal(least=False, value=300),
        ),
        Measurement("start", "peer", "first event possible", "ms", refused="needs kernel headers"),
    ]
    (tmp_path / measurement.FILE).write_text("".join(row.to_json() + "\n" for row in rows))
    assert measurement.read(tmp_path) == rows


def test_the_interval_holds_the_median():
    """The interval is inside the range of the samples, of width 0 if they are equal, and the same on each call."""
    wide = Measurement("start", "a", "q", "ms", [1.0, 5.0, 9.0, 2.0, 7.0])
    low, high = wide.interval
    assert 1 <= low <= wide.median <= high <= 9
    assert wide.interval == wide.interval
    assert Measurement("start", "a", "q", "ms", [4.0] * 5).interval == (4, 4)


@pytest.mark.parametrize(("least", "met"), [(True, False), (False, True)])
def test_goals(least, met):
    """A goal is a lower or an upper bound; without samples it is neither reached nor missed."""
    assert Measurement("start", "a", "q", "ms", [1.0, 2.0], goal=Goal(least, 3)).met is met
    empty = Measurement("start", "a", "q", "ms", goal=Goal(least, 3), refused="no")
    assert empty.met is None
    assert math.isnan(empty.median)


def test_a_file_of_something_else(tmp_path):
    """A file in another form gives an error that says what to do."""
    (tmp_path / measurement.FILE).write_text('{"a": 1}\n')
    with pytest.raises(LabError, match="run make bench again"):
        measurement.read(tmp_path)


def test_the_interval_of_many_samples():
    """The methods agree: 1001 samples (order statistics) and 1000 (bootstrap) give nearly the same interval."""
    samples = np.random.default_rng(1).lognormal(9, 1, 1001).tolist()
    ordered, resampled = (Measurement("accuracy", "a", "q", "ns", some).interval for some in (samples, samples[:-1]))
    width = ordered[1] - ordered[0]
    assert np.abs(np.subtract(ordered, resampled)).max() < width / 3
