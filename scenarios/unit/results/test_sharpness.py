"""How sharp the checks of a run were, and what the suite says and returns if it has judged no number."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from support.made.run_folder import checks, folder

from lab.paths import CHECKOUT
from lab.results.check_columns import CheckColumns
from lab.results.sharpness import Sharpness, quantity_of, sharpness, summary, table, widths
from lab.verdict import Bracket, Judge

JUDGE = Judge("s", "rtt", "tc:ingress")


def columns(tmp_path, rows):
    """Return the columns of a run with these checks."""
    return CheckColumns.read(folder(tmp_path / "run", checks=rows) / "checks.jsonl")


def timed(quantity, widths, judge=JUDGE):
    """Return a check of a time for each width."""
    return [judge.duration("a", quantity, Bracket.early(10**15, 10**15 + width), 10**15) for width in widths]


def test_widths_by_quantity(tmp_path):
    """Half and nine tenths of the brackets have at most the reported widths; a running number is no other quantity."""
    rows = [
        *timed("wait in send() 1", range(1, 6)),
        *timed("wait in send() 2", range(6, 11)),
        *timed("first SYN at", [7]),
    ]
    found = sharpness(columns(tmp_path, rows), quantity_of)
    assert found == {
        (("rtt", "wait in send()", "ns"), "ns"): Sharpness("ns", 10, 0, 0, 5, 9),
        (("rtt", "first SYN at", "ns"), "ns"): Sharpness("ns", 1, 0, 0, 7, 7),
    }


def test_exact_checks_are_counted_apart(tmp_path):
    """Equality has no width, also of ports, nor have counts that are all known exactly. Exact times have width 0."""
    rows = [
        JUDGE.equal("a", "state", "CLOSE", "CLOSE"),
        JUDGE.equal("a", "port", 80, 81),
        JUDGE.count("a", "SYN", Bracket.exactly(1), 1),
        *(JUDGE.count("a", "packets", Bracket.early(9, 9 + width), 9) for width in (0, 0, 3)),
        *timed("time in CLOSE", [0]),
    ]
    assert sharpness(columns(tmp_path, rows), lambda group: group.probe) == {
        ("rtt", ""): Sharpness("", 6, 1, 3, 0, 3),
        ("rtt", "ns"): Sharpness("ns", 1, 0, 0, 0, 0),
    }


def test_a_width_is_of_all_that_passes():
    """The rounding of the measured value widens the interval, a tolerance narrows it."""
    bracket = Bracket(1_000, 9_000, 2_000)
    assert JUDGE.duration("a", "q", bracket, 2_000).width == 8_000
    assert JUDGE.duration("a", "q", bracket, 2_000, resolution_ns=100).width == 8_200
    assert JUDGE.duration("a", "q", bracket, 2_500).within(1_500).width == 2_500
    assert JUDGE.equal("a", "q", 1, 1).width is None


def test_the_same_as_one_by_one(tmp_path):
    """The quantiles of a large run equal those computed check by check."""
    rows = checks()
    for (probe, unit), found in sharpness(columns(tmp_path, rows), lambda group: group.probe).items():
        mine = [check for check in rows if (check.probe, check.unit) == (probe, unit)]
        widths = np.array([check.width for check in mine if unit == "ns"])
        assert (found.checks, found.wrong) == (len(mine), sum(not check.passed for check in mine))
        for part, value in ((0.5, found.p50), (0.9, found.p90)):
            expected = np.quantile(widths, part, method="inverted_cdf") if len(widths) else math.nan
            assert value == expected or (math.isnan(value) and math.isnan(expected))


def test_the_headline_has_the_widths(tmp_path):
    """The same number of right values reads differently with wide brackets."""
    rows = [*timed("time in ESTABLISHED", [40_000] * 9 + [200_000_000]), JUDGE.equal("a", "port", 80, 80)]
    assert summary(columns(tmp_path, rows)) == (
        "11 checks: every measured value is consistent with the truth. "
        "Width of the brackets: of 10 times p50 40.000 us, p90 40.000 us. 1 check is exact."
    )
    (line,) = table(columns(tmp_path / "again", rows)).splitlines()[2:]
    assert line.split() == ["rtt", "11", "0", "1", "40.000", "us", "40.000", "us", "-", "-"]


def test_nothing_judged(tmp_path):
    """No check is no success."""
    nothing = columns(tmp_path, [])
    assert summary(nothing) == "No number was judged: nothing is known about the probes, and the run has failed."
    assert summary(nothing, 0) == "No number was judged: none of these tests compares a number with the truth."
    assert "although 3 of the tests judge numbers" in summary(nothing, 3)


SUITE = """
import pytest
from lab.verdict import Bracket, Judge

@pytest.fixture
def net(): ...
"""
JUDGING = "\ndef test_judging(lab): lab.check([Judge('s', 'rtt', '').duration('a', 'q', Bracket.early(1, 5), 2)])\n"
SILENT = "\ndef test_silent(lab): ...\n"
OTHER = "\ndef test_other(): ...\n"


@pytest.mark.parametrize("processes", [0, 1])
@pytest.mark.parametrize(
    ("tests", "status", "sentence"),
    [
        (
            JUDGING + OTHER,
            0,
            "1 check: every measured value is consistent with the truth. Width of the brackets: of 1 times",
        ),
        (SILENT + OTHER, 1, "No number was judged, although 1 of the tests judges numbers"),
        (OTHER, 0, "No number was judged: none of these tests compares a number with the truth."),
    ],
    ids=["judged", "silent", "on purpose"],
)
def test_the_suite_says_so(tmp_path, tests, status, sentence, processes):
    """A run without a judged number fails, unless none of its tests judges."""
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    (tmp_path / "scenarios" / "unit").mkdir(parents=True)  # tests there need no root
    shutil.copy(CHECKOUT / "conftest.py", tmp_path)
    (tmp_path / "scenarios" / "unit" / "test_made.py").write_text(SUITE + tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--numprocesses={processes}"],
        cwd=tmp_path,
        env=os.environ | {"LAB_RESULTS": str(tmp_path / "results")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    assert sentence in done.stdout
    assert json.loads((tmp_path / "results" / "latest" / "run.json").read_text())["status"] == status


def test_a_hostile_unit_is_escaped(tmp_path):
    """Checks come from anybody: a unit with control characters does not reach the terminal."""
    check = replace(JUDGE.count("a", "b", Bracket(0, 9, 5), 5), unit="\x1b[2J")
    assert "\x1b" not in widths(columns(tmp_path, [check]))
