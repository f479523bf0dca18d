"""Conditions of a wire, and the error for each impossible one."""

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
    "jitter beyond the delay": ({"delay_ns": 1, "jitter_ns": 2}, "so a delay could be negative: give a longer delay"),
    "reordering of nothing": ({"reorder": 0.1}, "give a delay too"),
    "no room": ({"limit": 0}, "no frame could pass: give 1 or more"),
    "less than a byte": ({"rate_bps": 7}, "give 8 or more, or 0 for unlimited"),
    "frame number zero": ({"drop": (0,)}, "from 1 on"),
    "too many frames": ({"drop": tuple(range(1, 66))}, "at most 64"),
}


@pytest.mark.parametrize(("conditions", "sentence"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_conditions(conditions, sentence):
    """Each impossible value is refused with the name of its field."""
    with pytest.raises(LabError) as refusal:
        Conditions(**conditions)
    assert sentence in str(refusal.value)


def test_the_default_is_a_perfect_wire():
    """The default conditions make no random choices and take no time."""
    assert not Conditions().draws
    assert Conditions().transmission_ns(1500) == 0
    assert Conditions(delay_ns=MS, jitter_ns=1).draws
    assert Conditions(corrupt=0.1).draws


@pytest.mark.parametrize(("rate", "length", "ns"), [(8, 1, 10**9), (10**9, 1500, 12_000), (3, 1, None), (10**9, 1, 8)])
def test_transmission(rate, length, ns):
    """The transmission time is the frame's bits divided by the rate, rounded up."""
    if ns is None:
        with pytest.raises(LabError):
            Conditions(rate_bps=rate)
    else:
        assert Conditions(rate_bps=rate).transmission_ns(length) == ns
        assert Conditions(rate_bps=rate * 3).transmission_ns(length) == -(-ns // 3)


@pytest.mark.parametrize(("text", "part"), [("0", 0), ("1.5%", 0.015), ("100%", 1), ("0.25", 0.25), ("1", 1)])
def test_fractions(text, part):
    """A fraction is written in percent or as a number."""
    assert fraction(text) == pytest.approx(part)


@pytest.mark.parametrize("text", ["150%", "1.5", "-1%", "all", "", "1 %"])
def test_no_fractions(text):
    """Texts that are not a fraction from 0 to 1 are refused."""
    with pytest.raises(argparse.ArgumentTypeError, match="is not a share from 0 to 100%: write it like"):
        fraction(text)


@pytest.mark.parametrize(("text", "rate"), [("8bit", 8), ("64kbit", 64_000), ("1.5gbit", 1_500_000_000)])
def test_rates(text, rate):
    """A rate is in bit/s, with decimal prefixes."""
    assert rate_bps(text) == rate


@pytest.mark.parametrize("text", ["0bit", "0mbit", "7bit", "10", "10mbps", "-1mbit"])
def test_no_rates(text):
    """A rate below 8 bit/s or without a unit is refused. Zero does not mean unlimited."""
    with pytest.raises(argparse.ArgumentTypeError, match="omit it for no limit"):
        rate_bps(text)
