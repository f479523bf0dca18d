"""What a wire can be asked for, and the one sentence for what it cannot."""

import argparse

import pytest

from lab.errors import LabError
from lab.network.conditions import Conditions
from lab.units import MS, fraction, rate_bps

IMPOSSIBLE = {
    "negative delay": ({"delay_ns": -1}, "delay_ns is -1: give a whole number"),
    "fraction of a nanosecond": ({"delay_ns": 1.5}, "delay_ns is 1.5: give a whole number"),
    "endless delay": ({"delay_ns": 1 << 63}, "give a whole number from 0 to 2"),
    "loss of 150 %": ({"loss": 1.5}, "loss is 1.5: give a fraction of the frames, from 0 to 1"),
    "negative loss": ({"loss": -0.1}, "loss is -0.1: give a fraction"),
    "loss that is no number": ({"loss": float("nan")}, "loss is nan: give a fraction"),
    "jitter beyond the delay": ({"delay_ns": 1, "jitter_ns": 2}, "no frame leaves before it came"),
    "reordering of nothing": ({"reorder": 0.1}, "give a delay too"),
    "no room": ({"limit": 0}, "no frame could pass: give 1 or more"),
    "less than a byte": ({"rate_bps": 7}, "give 8 or more, or 0 for unlimited"),
    "frame number zero": ({"drop": (0,)}, "counted from 1"),
    "too many frames": ({"drop": tuple(range(1, 66))}, "at most 64"),
}


@pytest.mark.parametrize(("conditions", "sentence"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_conditions(conditions, sentence):
    """Each is refused by name, where it is stated."""
    with pytest.raises(LabError) as refusal:
        Conditions(**conditions)
    assert sentence in str(refusal.value)


def test_the_default_is_nothing():
    """A wire without conditions leaves nothing to chance and takes no time."""
    assert not Conditions().draws
    assert Conditions().transmission_ns(1500) == 0
    assert Conditions(delay_ns=MS, jitter_ns=1).draws
    assert Conditions(corrupt=0.1).draws


@pytest.mark.parametrize(("rate", "length", "ns"), [(8, 1, 10**9), (10**9, 1500, 12_000), (3, 1, None), (10**9, 1, 8)])
def test_transmission(rate, length, ns):
    """A frame's bits over the rate, rounded up."""
    if ns is None:
        with pytest.raises(LabError):
            Conditions(rate_bps=rate)
    else:
        assert Conditions(rate_bps=rate).transmission_ns(length) == ns
        assert Conditions(rate_bps=rate * 3).transmission_ns(length) == -(-ns // 3)


@pytest.mark.parametrize(("text", "part"), [("0", 0), ("1.5%", 0.015), ("100%", 1), ("0.25", 0.25), ("1", 1)])
def test_fractions(text, part):
    """In percent, or as they are."""
    assert fraction(text) == pytest.approx(part)


@pytest.mark.parametrize("text", ["150%", "1.5", "-1%", "all", "", "1 %"])
def test_no_fractions(text):
    """More than all is not a part of it."""
    with pytest.raises(argparse.ArgumentTypeError, match="is no part of a whole: write it like"):
        fraction(text)


@pytest.mark.parametrize(("text", "rate"), [("8bit", 8), ("64kbit", 64_000), ("1.5gbit", 1_500_000_000)])
def test_rates(text, rate):
    """In bit/s, by powers of a thousand."""
    assert rate_bps(text) == rate


@pytest.mark.parametrize("text", ["0bit", "0mbit", "7bit", "10", "10mbps", "-1mbit"])
def test_no_rates(text):
    """A rate of zero is no way to say unlimited."""
    with pytest.raises(argparse.ArgumentTypeError, match="leave it out for no limit"):
        rate_bps(text)
