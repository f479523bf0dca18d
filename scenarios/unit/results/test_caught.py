"""The smallest errors that a run would have noticed, and the command that prints them."""

import json

import pytest

from lab.cli import main
from lab.results.caught import caught
from lab.results.check_columns import FILE
from lab.results.writer import Results
from lab.verdict import Bracket, Judge

JUDGE = Judge("a scenario", "states", "somewhere")


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a run: 200 checks of a time, one of them with a wide bracket, and others without an interval."""
    results = Results.create(tmp_path / "run")
    results.add(JUDGE.duration("it", "close() 1 entered at", Bracket.middle(100, 150), 110) for _ in range(199))
    results.add([JUDGE.duration("it", "close() 2 entered at", Bracket.middle(0, 10_000), 110)])
    results.add([JUDGE.duration("it", "rounded", Bracket.middle(100, 150), 155, resolution_ns=10)])
    results.add([JUDGE.equal("it", "ports", 1, 1), JUDGE.duration("it", "wrong", Bracket.exactly(5), 9)])
    return tmp_path / "run"


def test_errors_that_would_have_been_noticed(folder):
    """99 % of the checks fail at the shift. A running number does not divide a quantity, and rounding is allowed for."""
    found = {one.quantity: (one.checks, one.late, one.early, one.either) for one in caught(folder / FILE)}
    assert found == {"close() entered at": (200, 41, 11, 41), "rounded": (1, 6, 66, 66)}


def test_the_command(folder, capsys):
    """It prints a table, or JSON."""
    assert main(["sharpness", str(folder)]) == 0
    assert "41 ns" in capsys.readouterr().out
    assert main(["sharpness", str(folder), "--json", "--probe", "states"]) == 0
    assert [json.loads(line)["late"] for line in capsys.readouterr().out.splitlines()] == [6, 41]


def test_a_run_without_intervals(folder, capsys):
    """It says so."""
    assert main(["sharpness", str(folder), "--probe", "rtt"]) == 2
    assert "has no check with an interval of the probe rtt" in capsys.readouterr().err
