"""The file of durations: its lines, incomplete lines after a crash or on a full disk, and the histogram."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.output.pictures import require_drawable
from lab.probes.duration import statistics_file
from lab.probes.duration.statistics_file import DurationsFile, Histogram, line, read_durations

CLIENT, SERVER = ("192.168.143.246", 43052), ("137.226.34.46", 80)
LINE = "192.168.143.246:43052 ->   137.226.34.46:80    | Duration: 0.244123127  s"


def test_format_of_a_line():
    """Columns of fixed width, nine decimals, remarks after a bar, IPv6 in brackets, unknown as `-`."""
    assert line(CLIENT, SERVER, 244_123_127) == LINE
    assert line(CLIENT, SERVER, 244_123_127, "rst by client") == f"{LINE} | rst by client"
    assert line(CLIENT, SERVER, 5) == LINE.replace("0.244123127", "0.000000005")
    assert line(CLIENT, SERVER, 12_000_000_000) == LINE.replace("0.244123127 ", "12.000000000")
    assert line(CLIENT, SERVER, None) == LINE.replace("0.244123127", "-          ")
    long = ("2001:db8:1111:2222:3333:4444:5555:6666", 43052)
    assert line(long, ("::1", 80), 1).startswith(
        "[2001:db8:1111:2222:3333:4444:5555:6666]:43052 ->           [::1]:80    |"
    )


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 10**15))
def test_durations_are_exact(duration_ns):
    """A written duration is exact to the nanosecond: no float is involved."""
    text = line(CLIENT, SERVER, duration_ns)
    assert int(re.search(r": (\d+\.\d{9}) ", text)[1].replace(".", "")) == duration_ns


def read(path, text):
    path.write_text(text)
    return list(read_durations(path))


def test_only_whole_lines_are_read(tmp_path):
    """A line that is cut off at any place is skipped, not read as a shorter duration."""
    path = tmp_path / "statistics.dat"
    assert read(path, f"{LINE}\n{LINE} | rst\n") == [244_123_127] * 2
    whole = LINE.index("  s")
    for length in range(len(LINE)):
        assert read(path, f"{LINE}\n{LINE[:length]}\n{LINE}\n") == [244_123_127] * 2, LINE[:length]
    assert read(path, LINE[: whole - 1]) == []
    assert read(path, line(CLIENT, SERVER, None) + "\n") == []


def test_appends(tmp_path):
    """Existing lines stay; an incomplete last line gets a newline before the next line is appended."""
    path = tmp_path / "statistics.dat"
    for _ in range(2):
        file = DurationsFile(path)
        assert file.append([LINE, LINE]) == ""
        file.close()
    assert path.read_text() == f"{LINE}\n" * 4
    path.write_text(f"{LINE}\n{LINE[:70]}")
    file = DurationsFile(path)
    file.append([LINE])
    file.close()
    assert path.read_text() == f"{LINE}\n{LINE[:70]}\n{LINE}\n"
    assert list(read_durations(path)) == [244_123_127] * 2


def test_a_closed_file_is_closed(tmp_path):
    """No descriptor is left."""
    before = list(Path("/proc/self/fd").iterdir())
    file = DurationsFile(tmp_path / "statistics.dat")
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before) + 1
    file.close()
    assert list(Path("/proc/self/fd").iterdir()) == before


def test_each_line_is_written_at_once(tmp_path):
    """A crash loses no line: it is in the file when `append` returns, without flush or close."""
    path = tmp_path / "statistics.dat"
    file = DurationsFile(path)
    for count in range(1, 4):
        file.append([LINE])
        assert path.read_text() == f"{LINE}\n" * count
    file.close()


def test_a_full_disk():
    """The error is reported once; missing lines are counted."""
    file = DurationsFile(Path("/dev/full"))
    assert file.append([LINE]) == "/dev/full cannot take more lines (No space left on device): they are printed only"
    assert file.append([LINE, LINE]) == ""
    assert file.missing == 3
    file.close()


@pytest.mark.parametrize("room", [0, 1, len(LINE), len(LINE) + 1, len(LINE) + 40])
def test_a_short_write(tmp_path, monkeypatch, room):
    """After a short write on a full disk, the incomplete line is not joined with a later line."""
    path = tmp_path / "statistics.dat"
    file = DurationsFile(path)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(statistics_file.os, "write", lambda fd, data: real(fd, data[:room]))
        assert "cannot take more lines (no room is left)" in file.append([LINE, LINE])
        assert file.missing == (1 if room >= len(LINE) else 2)
        assert file.append([LINE]) == ""
    assert file.append([LINE]) == ""
    file.close()
    whole = [text for text in path.read_text().splitlines() if text == LINE]
    assert len(whole) == list(read_durations(path)).count(244_123_127)
    assert path.read_text().endswith(f"{LINE}\n")
    assert file.missing == 4 - len(whole)


def test_a_file_that_cannot_be_opened(tmp_path):
    """The error is one sentence with the reason."""
    with pytest.raises(LabError, match=r"cannot be written \(Is a directory\): choose another file"):
        DurationsFile(tmp_path)
    with pytest.raises(LabError, match=r"cannot be written \(No such file or directory\)"):
        DurationsFile(tmp_path / "nowhere" / "file")
    with pytest.raises(LabError, match=r"cannot be read \(No such file or directory\)"):
        list(read_durations(tmp_path / "nothing"))


def test_bins_are_logarithmic():
    """Ten bins per decade. A duration at an edge is in the bin above. The first and last bin are open-ended."""
    histogram = Histogram()
    histogram.add([0, 1_000, 1_258, 1_259, 10**9, 10**30 // 10**12])
    assert histogram.counts.sum() == 6
    assert histogram.counts[0] == 3
    assert histogram.counts[1] == 1
    assert histogram.counts[60] == 1
    assert histogram.counts[-1] == 1


@pytest.mark.parametrize("name", ["graph.png", "graph.svg"])
def test_a_picture(tmp_path, name):
    """The suffix of the file is the type of the picture."""
    histogram = Histogram()
    histogram.add([10**6, 2 * 10**6, 10**9])
    histogram.draw(tmp_path / name)
    assert (tmp_path / name).read_bytes()[:5] in {b"\x89PNG\r", b"<?xml"}


def test_nothing_to_draw(tmp_path):
    """Without durations, or with an unusable file name, no picture is drawn and the error has the reason."""
    with pytest.raises(LabError, match="no duration is known"):
        Histogram().draw(tmp_path / "graph.png")
    with pytest.raises(LabError, match="not the name of a picture"):
        require_drawable(tmp_path / "graph.doc")
    with pytest.raises(LabError, match="cannot be written"):
        require_drawable(tmp_path / "nowhere" / "graph.png")
