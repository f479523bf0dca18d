"""Checks read as columns say what the rows say, and a row is found again as it stands in its file."""

import json
import math

import numpy as np
import pytest
from support.made.run_folder import HOSTILE, checks, folder

from lab.errors import LabError
from lab.results import check_columns
from lab.results.check_columns import CheckColumns, Group, position, stream
from lab.verdict import Bracket, Judge

JUDGE = Judge("scenario", "states", "fentry:tcp_v4_rcv", 2)


@pytest.mark.parametrize("chunk", [1, 1000, 1 << 22])
def test_columns_and_rows_agree(tmp_path, monkeypatch, chunk):
    """However the file is cut into pieces: each line by its offset is the check of that position, in its group."""
    monkeypatch.setattr(check_columns, "_CHUNK", chunk)
    rows = checks()
    columns = CheckColumns.read(folder(tmp_path / "run", checks=rows) / "checks.jsonl")
    assert [json.loads(line) for line in columns.lines(range(len(rows)))] == [json.loads(row.to_json()) for row in rows]
    assert list(stream(columns.path)) == rows
    for check, row in zip(rows, columns.rows, strict=True):
        assert columns.groups[row["group"]] == Group(check.scenario, check.probe, check.quantity, check.unit)
        assert row["passed"] == check.passed
        assert row["error"] == check.error or (check.error is None and math.isnan(row["error"]))
    members = columns.members()
    assert np.array_equal(np.sort(np.concatenate(members)), np.arange(len(rows)))
    assert all((columns.rows["group"][some] == number).all() for number, some in enumerate(members))


def test_where_in_the_bracket():
    """0 and 1 are its ends; what is no number, or no interval, has no place."""
    bracket = Bracket(9_100_000_000_000_000, 9_100_000_000_000_004, 9_100_000_000_000_000)
    places = [position(JUDGE.duration("a", "q", bracket, bracket.low + more)) for more in (-4, 0, 1, 4, 8)]
    assert places == [-1, 0, 0.25, 1, 2]
    assert math.isnan(position(JUDGE.count("a", "q", Bracket(1, 1, 1), 1)))
    assert math.isnan(position(JUDGE.equal("a", "q", "truth", HOSTILE)))


def test_a_killed_run(tmp_path):
    """The last line, cut off, does not count and is told of."""
    path = folder(tmp_path / "run", checks=checks(wrong=0, count=2)) / "checks.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    columns = CheckColumns.read(path)
    assert columns.torn
    assert len(columns.rows) == whole.count(b"\n") - 1


def test_losses_and_attach_points(tmp_path):
    """By probe: the most that one recording lacks, and every place that it was attached to."""
    rows = [
        Judge("s", "rtt", place, lost).count("a", "q", Bracket(0, 0, 0), 0) for place, lost in (("a:1", 0), ("b:2", 7))
    ]
    columns = CheckColumns.read(folder(tmp_path / "run", checks=rows) / "checks.jsonl")
    assert columns.lost == {"rtt": 7}
    assert {place for places in columns.attach_points.values() for place in places} == {"a:1", "b:2"}


def test_nothing_to_read(tmp_path):
    """No file, and an empty one, are no checks."""
    (tmp_path / "empty").touch()
    for name in ("missing", "empty"):
        columns = CheckColumns.read(tmp_path / name)
        assert (len(columns.rows), columns.groups, columns.members()) == (0, [], [])


@pytest.mark.parametrize("text", ['{"a": 1}\n', "no JSON\n", "\n\n", '{"scenario": 1}\n', "\xff\n"])
def test_a_file_of_something_else(tmp_path, text):
    """One sentence that says what to do."""
    path = tmp_path / "checks.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(LabError, match="run the scenarios again"):
        CheckColumns.read(path)
