"""Checks read as columns equal the checks of the file, and each row leads back to its line."""

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
    """For every chunk size, each row has the values, the group and the line of its check."""
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


def test_without_numbers(tmp_path):
    """The calls of one kind share a group; scenarios, units and other quantities do not."""
    names = ("wait in recv() 2", "wait in send() 2", "wait in recv() 13", "port 80", "wait in recv()")
    rows = [JUDGE.count("a", name, Bracket.exactly(0), number) for number, name in enumerate(names)]
    rows.append(JUDGE.duration("a", names[0], Bracket.exactly(0), 5))
    whole = CheckColumns.read(folder(tmp_path / "run", checks=rows) / "checks.jsonl")
    columns = whole.without_numbers()
    assert columns.rows["group"].tolist() == [0, 1, 0, 2, 0, 3]
    assert [group.quantity for group in columns.groups] == [names[4], "wait in send()", "port 80", names[4]]
    assert columns.rows["error"].tolist() == whole.rows["error"].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(CheckColumns.read(tmp_path / "missing").without_numbers().rows) == 0


def test_where_in_the_bracket():
    """0 and 1 are the ends of the bracket; a value that is not a number, or a bracket of one point, gives NaN."""
    bracket = Bracket.early(9_100_000_000_000_000, 9_100_000_000_000_004)
    places = [position(JUDGE.duration("a", "q", bracket, bracket.low + more)) for more in (-4, 0, 1, 4, 8)]
    assert places == [-1, 0, 0.25, 1, 2]
    assert math.isnan(position(JUDGE.count("a", "q", Bracket.exactly(1), 1)))
    assert math.isnan(position(JUDGE.equal("a", "q", "truth", HOSTILE)))


def test_a_killed_run(tmp_path):
    """An incomplete last line is ignored and reported."""
    path = folder(tmp_path / "run", checks=checks(wrong=0, count=2)) / "checks.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    columns = CheckColumns.read(path)
    assert columns.torn
    assert len(columns.rows) == whole.count(b"\n") - 1


def test_losses_and_attach_points(tmp_path):
    """For each probe: the largest loss in one recording, and all attach points."""
    rows = [
        Judge("s", "rtt", place, lost).count("a", "q", Bracket.exactly(0), 0)
        for place, lost in (("a:1", 0), ("b:2", 7))
    ]
    columns = CheckColumns.read(folder(tmp_path / "run", checks=rows) / "checks.jsonl")
    assert columns.lost == {"rtt": 7}
    assert {place for places in columns.attach_points.values() for place in places} == {"a:1", "b:2"}


def test_nothing_to_read(tmp_path):
    """A missing file and an empty file have no checks."""
    (tmp_path / "empty").touch()
    for name in ("missing", "empty"):
        columns = CheckColumns.read(tmp_path / name)
        assert (len(columns.rows), columns.groups, columns.members()) == (0, [], [])


@pytest.mark.parametrize("text", ['{"a": 1}\n', "no JSON\n", "\n\n", '{"scenario": 1}\n', "\xff\n"])
def test_a_file_of_something_else(tmp_path, text):
    """A file in another form gives an error that says what to do."""
    path = tmp_path / "checks.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(LabError, match="run the scenarios again"):
        CheckColumns.read(path)
