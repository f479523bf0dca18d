"""The gate: content of a baseline, and the limit for more instructions."""

from dataclasses import replace

import pytest

from lab.bench import gate
from lab.bench.gate import Baseline
from lab.errors import LabError
from lab.results.measurement import Measurement

BEFORE = Baseline("6.1.0", {"lab rtt, per run of a": 100.0, "lab rtt, per run of gone": 7.0})


def test_a_baseline_survives_its_file(tmp_path):
    """It has the median of each measured program, and reading it back gives the same baseline."""
    rows = [
        Measurement("instructions", "lab rtt", "per run of a", "instructions", [99.0, 100.04, 300.0]),
        Measurement("instructions", "lab flows", "per run", "instructions", refused="time is real"),
    ]
    baseline = Baseline.of("6.1.0", rows)
    assert baseline == Baseline("6.1.0", {"lab rtt, per run of a": 100.0})
    baseline.write(tmp_path / "baseline.json")
    assert Baseline.read(tmp_path / "baseline.json") == baseline


def test_rows_without_instructions_are_refused():
    """The error names the command that counts instructions."""
    with pytest.raises(LabError, match="make bench-gate"):
        Baseline.of(
            "6.1.0", [Measurement("instructions", "lab rtt", "per run", "instructions", refused="time is real")]
        )


@pytest.mark.parametrize(("taken", "worse"), [(90.0, 0), (103.0, 0), (103.1, 1)])
def test_three_percent_more_is_too_much(taken, worse):
    """Fewer instructions pass. New and removed programs are shown in the table and pass, too."""
    now = Baseline("6.1.0", {"lab rtt, per run of a": taken, "lab rtt, per run of new": 1e6})
    assert len(gate.regressions(now, BEFORE)) == worse
    table = gate.table(now, BEFORE.instructions)
    assert "new" in table
    assert "gone" in table


@pytest.mark.parametrize(("verified", "worse"), [(gate.MOST_VERIFIED, 0), (gate.MOST_VERIFIED + 1, 1)])
def test_the_verifier_has_a_limit(verified, worse):
    """It holds for a new program, too, which has no baseline."""
    now = Baseline("6.1.0", {"lab rtt, verified to load a": float(verified)})
    assert len(gate.regressions(now, BEFORE)) == worse


def test_another_kernel_is_not_compared():
    """The error names both kernels."""
    with pytest.raises(LabError, match=r"for kernel 6.1.0 and this is 6.12.0"):
        gate.regressions(replace(BEFORE, kernel="6.12.0"), BEFORE)


@pytest.mark.parametrize("text", ["", "[]", '{"kernel": "6.1"}'])
def test_a_file_that_is_not_a_baseline_is_refused(tmp_path, text):
    """The error names the command that writes a baseline."""
    (tmp_path / "baseline.json").write_text(text)
    with pytest.raises(LabError, match="lab gate --update"):
        Baseline.read(tmp_path / "baseline.json")
