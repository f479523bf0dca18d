"""Parsing and formatting of durations, sizes, ports and amounts, and errors for other texts."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.units import amount_text, bytes_text, duration_ns, duration_text, port


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0s", 0),
        ("1ns", 1),
        ("250us", 250_000),
        ("250µs", 250_000),
        ("10ms", 10_000_000),
        ("1.5s", 1_500_000_000),
        ("0.0000001s", 100),
        ("1.001us", 1001),
    ],
)
def test_a_duration_with_its_unit_is_read_in_nanoseconds(text, ns):
    """All units are read, with an optional decimal point."""
    assert duration_ns(text) == ns


@pytest.mark.parametrize(
    "text", ["", "5", "ms", "-5ms", "5 ms", "5m", "1e3ms", "1.s", ".5s", "5msx", "nan s", "five ms"]
)
def test_other_texts_are_no_durations(text):
    """The error for a missing unit, a sign or an unknown unit shows how to write a duration."""
    with pytest.raises(argparse.ArgumentTypeError, match="write it like"):
        duration_ns(text)


@given(st.integers(0, 10**15))
def test_nanoseconds_are_read_exactly(ns):
    """Whole numbers of nanoseconds up to eleven days are read without rounding."""
    assert duration_ns(f"{ns}ns") == ns


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1000, "1.000 us"),
        (12_345_678, "12.346 ms"),
        (1_500_000_000, "1.500 s"),
        (-2_000_000, "-2.000 ms"),
    ],
)
def test_a_duration_is_written_in_the_largest_unit(ns, text):
    """The unit depends on the absolute value."""
    assert duration_text(ns) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (1_234_567, "1.2 MB"),
        (10**12, "1.0 TB"),
        (10**19, "10000.0 PB"),
    ],
)
def test_bytes_are_written_in_the_largest_unit(count, text):
    """Units are decimal, and no value is rounded to 1000 of a unit that has a larger one."""
    assert bytes_text(count) == text


@pytest.mark.parametrize("text", ["1", "80", "9999", "65535"])
def test_a_port_is_read(text):
    """Ports from 1 to 65535 are read."""
    assert port(text) == int(text)


@pytest.mark.parametrize("text", ["0", "65536", "70000", "-1", "+80", "80.0", "0x50", "http", "", " 80", "²"])
def test_other_texts_are_no_ports(text):
    """The error for any other text shows the range."""
    with pytest.raises(argparse.ArgumentTypeError, match="1 to 65535"):
        port(text)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1500, "ns", "1.500 us"),
        (0.0184, "fraction", "1.84 %"),
        (0, "fraction", "0 %"),
        (0.853, "ratio", "0.853"),
        (94_400, "1/s", "94.4 k 1/s"),
        (float("nan"), "ns", ""),
    ],
)
def test_an_amount_is_written_with_its_unit(value, unit, text):
    """Times have the largest unit that fits, fractions are in percent, ratios have no unit."""
    assert amount_text(value, unit) == text
