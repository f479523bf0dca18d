"""Parse and format times, rates, shares and sizes. Inside the lab, times are integers in nanoseconds."""

import argparse
import math
import re

NS_OF_UNIT = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
BYTES_OF_UNIT = {"B": 1, "kB": 1_000, "KiB": 1 << 10, "MB": 1_000_000, "MiB": 1 << 20}
_BPS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
MS = NS_OF_UNIT["ms"]
SECOND = NS_OF_UNIT["s"]


def duration_ns(text: str) -> int:
    """Parse `250us`, `10ms`, `1.5s` (argparse type). Raises `argparse.ArgumentTypeError` for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"`{text}` is not a duration: write it like 250us, 10ms or 1.5s")
    return round(float(match[1]) * NS_OF_UNIT[match[2]])


def duration_text(ns: int) -> str:
    """Return a duration as text in the largest unit that fits: `12.345 ms`."""
    for unit in ("s", "ms", "us"):
        if abs(ns) >= NS_OF_UNIT[unit]:
            return f"{ns / NS_OF_UNIT[unit]:.3f} {unit}"
    return f"{ns} ns"


def bytes_text(count: int) -> str:
    """Return a number of bytes as text in the largest decimal unit that fits: `999 B`, `1.2 MB`."""
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        size /= 1000
        if size < 999.95 or unit == "PB":  # 999.95 and more would be printed as 1000.0
            break
    return f"{size:.1f} {unit}"


def compact(value: float) -> str:
    """Return a number as short text: `12.3 k`, `5 M`, `0.93`."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == ' k' else size):.3g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def amount_text(value: float, unit: str) -> str:
    """Return a value with its unit as text; empty for NaN.

    Times have the largest unit that fits, fractions are in percent. The units `ratio` and `verdict` are not written.
    """
    if math.isnan(value):
        return ""
    if unit == "ns":
        return duration_text(round(value))
    if unit == "fraction":
        return f"{compact(100 * value)} %"
    return compact(value) if unit in {"", "ratio", "verdict"} else f"{compact(value)} {unit}"


def above_zero(text: str, complaint: str) -> float:
    """Parse a number above 0. Raises `argparse.ArgumentTypeError` for anything else; `complaint` ends its sentence."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"`{text}` is {complaint}")
    return value


def fraction(text: str) -> float:
    """Parse `1.5%` or `0.015` (argparse type), from 0 to 1. Raises `argparse.ArgumentTypeError` for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text)
    part = float(match[1]) / (100 if match[2] else 1) if match else 2
    if part > 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a share from 0 to 100%: write it like 1.5% or 0.015")
    return part


def rate_bps(text: str) -> int:
    """Parse `64kbit`, `10mbit`, `1.5gbit` (argparse type).

    Raises `argparse.ArgumentTypeError` for anything else, and for 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(|k|m|g)bit", text)
    rate = round(float(match[1]) * _BPS[match[2]]) if match else 0
    if rate < 8:
        raise argparse.ArgumentTypeError(
            f"`{text}` is not a rate of 8bit or more: write it like 64kbit, 10mbit or 1gbit, or omit it for no limit"
        )
    return rate


def port(text: str) -> int:
    """Parse a port number (argparse type): 1 to 65535."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"`{text}` is not a port: give a number from 1 to 65535")
    return int(text)


def count(text: str) -> int:
    """Parse a number of rows (argparse type): 1 or more."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"`{text}` is not a number of rows: give 1 or more")
    return int(text)


def interval_s(text: str) -> float:
    """Parse the time between two reports in seconds (argparse type): 0.1 to 86400."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"`{text}` is not an interval: give a number of seconds from 0.1 to 86400")
    return value


def interval_ns(text: str) -> int:
    """Parse `interval_s` into nanoseconds (argparse type)."""
    return round(interval_s(text) * SECOND)


def positive_seconds(text: str) -> float:
    """Parse a time in seconds (argparse type): above 0."""
    return above_zero(text, "not a time: give a number of seconds above 0")
