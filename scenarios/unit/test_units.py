"""Times and ports are read and written as people mean them, and what is neither is refused."""

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
    """Every unit the lab writes can be read, with a decimal point where people use one."""
    assert duration_ns(text) == ns


@pytest.mark.parametrize(
    "text", ["", "5", "ms", "-5ms", "5 ms", "5m", "1e3ms", "1.s", ".5s", "5msx", "nan s", "five ms"]
)
def test_what_is_no_duration_is_refused(text):
    """A number without a unit, a sign or an unknown unit is answered with the right way to write it."""
    with pytest.raises(argparse.ArgumentTypeError, match="write it like"):
        duration_ns(text)


@given(st.integers(0, 10**15))
def test_nanoseconds_are_read_exactly(ns):
    """Every whole number of nanoseconds up to eleven days is read as itself."""
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
def test_a_duration_is_written_with_the_unit_that_suits_it(ns, text):
    """Each size has its unit, also below zero."""
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
def test_bytes_are_written_with_the_unit_that_suits_them(count, text):
    """Decimal units, and never a thousand of one that has a next."""
    assert bytes_text(count) == text


@pytest.mark.parametrize("text", ["1", "80", "9999", "65535"])
def test_a_port_is_read(text):
    """Every port that a connection can have is read."""
    assert port(text) == int(text)


@pytest.mark.parametrize("text", ["0", "65536", "70000", "-1", "+80", "80.0", "0x50", "http", "", " 80", "²"])
def test_what_is_no_port_is_refused(text):
    """Zero, too large a number and text are answered with the range."""
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
    """Times in the unit that suits them, fractions in percent, ratios alone."""
    assert amount_text(value, unit) == text
