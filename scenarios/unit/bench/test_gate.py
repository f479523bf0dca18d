"""The gate: what a baseline keeps, and when a program has become too expensive."""

import pytest

from lab.bench import gate
from lab.bench.gate import Baseline
from lab.errors import LabError
from lab.results.measurement import Measurement

BEFORE = Baseline("6.1.0", {"lab rtt, per run of a": 100.0, "lab rtt, per run of gone": 7.0})


def test_a_baseline_survives_its_file(tmp_path):
    """The median of each program; what was not measured is not in it."""
    rows = [
        Measurement("instructions", "lab rtt", "per run of a", "instructions", [99.0, 100.04, 300.0]),
        Measurement("instructions", "lab flows", "per run", "instructions", refused="time is real"),
    ]
    made = Baseline.of("6.1.0", rows)
    assert made == Baseline("6.1.0", {"lab rtt, per run of a": 100.0})
    made.write(tmp_path / "baseline.json")
    assert Baseline.read(tmp_path / "baseline.json") == made


def test_where_nothing_was_counted():
    """One sentence that says what it takes."""
    with pytest.raises(LabError, match="make bench-gate"):
        Baseline.of(
            "6.1.0", [Measurement("instructions", "lab rtt", "per run", "instructions", refused="time is real")]
        )


@pytest.mark.parametrize(("taken", "worse"), [(90.0, 0), (103.0, 0), (103.1, 1)])
def test_three_percent_more_is_too_much(taken, worse):
    """Less is welcome; what is new or gone is told in the table and fails nothing."""
    now = Baseline("6.1.0", {"lab rtt, per run of a": taken, "lab rtt, per run of new": 1e6})
    assert len(gate.more(now, BEFORE)) == worse
    table = gate.table(now, BEFORE.instructions)
    assert "new" in table
    assert "gone" in table


def test_another_kernel():
    """Its instructions are others: there is nothing to compare."""
    with pytest.raises(LabError, match=r"of kernel 6.1.0 and this is 6.12.0"):
        gate.more(BEFORE._replace(kernel="6.12.0"), BEFORE)


@pytest.mark.parametrize("text", ["", "[]", '{"kernel": "6.1"}'])
def test_a_file_that_is_none(tmp_path, text):
    """One sentence that says how to make one."""
    (tmp_path / "baseline.json").write_text(text)
    with pytest.raises(LabError, match="lab gate --update"):
        Baseline.read(tmp_path / "baseline.json")
