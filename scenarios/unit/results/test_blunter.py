"""The baseline of sharpness: its content, and what counts as blunter."""

import json
from dataclasses import replace

import pytest
from support.made.run_folder import folder

from lab.cli import main
from lab.errors import LabError
from lab.results.blunter import Baseline, blunter
from lab.results.reader import RunFolder
from lab.verdict import Bracket, Judge

pytestmark = pytest.mark.rootless

BEFORE = Baseline("6.1.0, virtual clock", {"rtt, wait": 100, "states, time in LISTEN": 0})


def timed(widths):
    """Return a check of a time for each width."""
    judge = Judge("s", "rtt", "tc:ingress")
    return [
        judge.duration("a", f"wait in send() {number}", Bracket.early(10**15, 10**15 + width), 10**15)
        for number, width in enumerate(widths)
    ]


def test_medians_by_quantity(tmp_path):
    """Of times only: an exact check is not wide, and a count has no time."""
    judge = Judge("s", "rtt", "tc:ingress")
    rows = [*timed([10, 30, 20]), judge.count("a", "packets", Bracket.early(9, 12), 9)]
    assert Baseline.of(RunFolder.open(folder(tmp_path / "run", checks=rows))).widths_ns == {"rtt, wait in send()": 20}


@pytest.mark.parametrize(
    ("widths", "sentences"),
    [
        ({"rtt, wait": 200, "states, time in LISTEN": 0, "rtt, new": 10**9}, []),
        ({"rtt, wait": 201, "states, time in LISTEN": 0}, ["rtt, wait: the brackets are 201 ns wide"]),
        ({"rtt, wait": 100, "states, time in LISTEN": 1}, ["states, time in LISTEN: the brackets"]),
        ({"rtt, wait": 100}, ["states, time in LISTEN is not judged any more"]),
    ],
)
def test_twice_as_wide_is_too_much(widths, sentences):
    """A quantity that is not judged any more is blunter, too; a new one is not."""
    found = blunter(replace(BEFORE, widths_ns=widths), BEFORE)
    assert len(found) == len(sentences)
    assert all(one.startswith(expected) for one, expected in zip(found, sentences, strict=True))


def test_another_place_is_not_compared():
    """The error names both."""
    with pytest.raises(LabError, match=r"for 6.1.0, virtual clock and this run is of 6.1.0, real clock"):
        blunter(replace(BEFORE, place="6.1.0, real clock"), BEFORE)


def test_the_command(tmp_path, capsys):
    """It writes the baseline, and compares with it."""
    run, baseline = folder(tmp_path / "run", checks=timed([10, 30, 20])), tmp_path / "baseline.json"
    words = ["sharpness", str(run), "--baseline", str(baseline)]
    assert main(words) == 2
    assert "lab sharpness --update" in capsys.readouterr().err
    assert main([*words, "--update"]) == 0
    assert main(words) == 0
    content = json.loads(baseline.read_text())
    content["widths_ns"]["rtt, wait in send()"] = 9
    baseline.write_text(json.dumps(content))
    assert main(words) == 1
    assert "rtt, wait in send(): the brackets are 20 ns wide (median), 9 ns before" in capsys.readouterr().out
    assert main(["sharpness", str(run), "--update"]) == 2


def test_a_run_without_brackets(tmp_path):
    """There is nothing to compare."""
    with pytest.raises(LabError, match="has no brackets of times"):
        Baseline.of(RunFolder.open(folder(tmp_path / "run")))
