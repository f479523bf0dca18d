"""The file of durations (`statistics.dat`): format, appending, reading, and the histogram.

A line is `192.168.143.246:43052 ->   137.226.34.46:80    | Duration: 0.244123127  s`; remarks may follow.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab.errors import LabError
from lab.output.file import appending
from lab.output.pictures import figure, save

if TYPE_CHECKING:
    from lab.arrays import Integers

_DURATION = re.compile(r" \| Duration: (\d+)\.(\d{9}) +s(?: \| .*)?")
_PER_DECADE = 10
_SHORTEST_S, _DECADES = 1e-6, 12


def line(client: tuple[str, int], server: tuple[str, int], duration_ns: int | None, remarks: str = "") -> str:
    """Return one line of the file, without the newline. An unknown duration is `-`."""
    seconds = "-" if duration_ns is None else f"{duration_ns // 10**9}.{duration_ns % 10**9:09d}"
    ends = " -> ".join(
        f"{f'[{address}]' if ':' in address else address:>15}:{port:<5}" for address, port in (client, server)
    )
    return f"{ends} | Duration: {seconds:<12} s" + (f" | {remarks}" if remarks else "")


def read_durations(path: Path) -> Iterator[int]:
    """Yield the known durations of a file, in nanoseconds.

    Lines that are incomplete, for example after a crash, are skipped. Raises `LabError` if the file cannot be read.
    """
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            for text in file:
                if (found := _DURATION.search(text)) and found.end() == len(text.rstrip("\n")):
                    yield int(found[1]) * 10**9 + int(found[2])
    except OSError as error:
        raise LabError(f"{path} cannot be read ({error.strerror}): give a file written by `--output`") from error


class DurationsFile:
    """Append lines to a file, each batch in one write, so that a crash loses no line that was printed.

    `missing` counts the lines that did not fit on the disk. A line that was cut off there stays on a line of its own:
    the next batch begins with a newline.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises `LabError` if that fails."""
        self._path = path
        self.missing = 0
        self._fd = appending(path)
        self._torn = self._ends_torn()

    def append(self, lines: list[str]) -> str:
        """Append the lines; return the error the first time that lines are missing, otherwise ""."""
        text = "".join(f"{line}\n" for line in lines).encode()
        data = (b"\n" if self._torn else b"") + text
        why, written = "no room is left", 0
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            why = os.strerror(error.errno or 0)
        if written == len(data):
            self._torn = False
            return ""
        self._torn = data[written - 1 : written] != b"\n" if written else self._torn
        first_time = not self.missing
        # A line that lacks only its newline is complete.
        self.missing += len(lines) - data[len(data) - len(text) : written + 1].count(b"\n")
        return f"{self._path} cannot take more lines ({why}): they are printed only" if first_time else ""

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _ends_torn(self) -> bool:
        """Return true if the last line of the file has no newline. A pipe has size 0, so the result is false."""
        size = os.fstat(self._fd).st_size
        return size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"


class Histogram:
    """Counts of durations in logarithmic bins, ten per decade, from 1 µs on. The number of bins is fixed."""

    def __init__(self) -> None:
        self.edges_s = _SHORTEST_S * 10 ** (np.arange(_DECADES * _PER_DECADE + 1) / _PER_DECADE)
        self.counts: Integers = np.zeros(len(self.edges_s) - 1, np.int64)

    def add(self, durations_ns: Iterable[int]) -> None:
        """Count durations. Shorter ones than the first bin count there, longer ones than the last bin count there."""
        values = np.fromiter(durations_ns, np.int64) / 1e9
        bins = np.clip(np.searchsorted(self.edges_s, values, side="right") - 1, 0, len(self.counts) - 1)
        np.add.at(self.counts, bins, 1)

    def draw(self, path: Path) -> None:
        """Write a picture of the type of the file's suffix. Raises `LabError` if no duration is known or it fails."""
        if not self.counts.any():
            raise LabError(f"no duration is known, so {path} was not drawn: watch longer or give another file")
        used = np.flatnonzero(self.counts)
        low, high = max(0, used[0] - 2), min(len(self.counts), used[-1] + 3)
        drawn = figure(figsize=(8, 4.5), layout="constrained")
        from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 (after `figure`, which imports Matplotlib safely)

        axes = drawn.add_subplot()
        axes.stairs(self.counts[low:high], self.edges_s[low : high + 1], fill=True, color="#3465a4")
        axes.set_xscale("log")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("duration, first SYN to first FIN or RST (s)")
        axes.set_ylabel(f"connections per bin ({_PER_DECADE} bins per decade)")
        axes.set_title(f"Duration of {self.counts.sum():,} TCP connections")
        axes.grid(visible=True, axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        save(drawn, path)
