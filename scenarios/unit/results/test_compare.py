"""Two runs beside each other: what changed is found, what did not is not, and many comparisons do not make a change."""

import json

import numpy as np
import pytest
from support.made.run_folder import checks, folder, measurements

from lab.cli import main
from lab.results.compare import compare
from lab.results.measurement import Goal, Measurement
from lab.results.reader import RunFolder
from lab.verdict import Bracket, Judge


def compared(tmp_path, before, after):
    """Compare two runs, each given as arguments of `folder`."""
    paths = [folder(tmp_path / name, **what) for name, what in (("before", before), ("after", after))]
    return compare(*(RunFolder.open(path) for path in paths))


def test_verdicts_that_change_sides(tmp_path):
    """Broken, mended, wrong in both; and what only one run has is named."""

    def judged(**measured):
        return [
            Judge("s", "duration", "tc:ingress").count("a", name, Bracket(1, 1, 1), value)
            for name, value in measured.items()
        ]

    found = compared(
        tmp_path, {"checks": judged(a=1, b=2, c=2, d=1, gone=1)}, {"checks": judged(a=2, b=1, c=2, d=1, new=1)}
    )
    assert {change.group.quantity: change.verdict for change in found.checks} == {
        "a": "broken",
        "b": "mended",
        "c": "wrong",
        "d": "right",
    }
    assert (found.only_before, found.only_after) == (["s / duration / gone"], ["s / duration / new"])


def test_larger_errors_are_found(tmp_path):
    """Errors three times as large are, in every quantity that has a spread; those that are all the same are not tested."""
    found = compared(tmp_path, {"checks": checks(1)}, {"checks": checks(2, slow=3)})
    timed = [change for change in found.checks if change.group.quantity in {"time in ESTABLISHED", "first SYN at"}]
    assert len(timed) == 16
    assert all(
        change.shift.significant and change.shift.larger > 0.5 and change.shift.after > change.shift.before
        for change in timed
    )
    assert all(change.shift.p is None for change in found.checks if change.group.quantity == "SYN retransmissions")
    assert all(change.shift is None for change in found.checks if change.group.quantity == "owner")


def test_chance_is_no_change(tmp_path):
    """Of 400 quantities that are the same, 20 look like a change to a test that does not correct for their number; none is."""

    def rows(seed):
        random = np.random.default_rng(seed)
        return [
            Measurement("start", f"tool {number}", "time", "ms", random.normal(9, 1, 20).tolist())
            for number in range(400)
        ]

    assert not any(
        change.shift.significant
        for change in compared(tmp_path, {"measurements": rows(1)}, {"measurements": rows(2)}).figures
    )


def test_ratio_of_medians(tmp_path):
    """Twice the cost is a ratio of two inside its interval, and significant; the ratio of a run to itself is one."""
    same = measurements(2)
    found = compared(tmp_path, {"measurements": same}, {"measurements": measurements(3, slow=2)})
    costs = [change for change in found.figures if change.after.figure == "kernel cost"]
    assert len(costs) == 4
    for change in costs:
        ratio, low, high = change.ratio
        assert low < 2 < high, change
        assert low < ratio < high
        assert change.shift.significant
    (tmp_path / "again").mkdir()
    for change in compared(tmp_path / "again", {"measurements": same}, {"measurements": same}).figures:
        assert change.ratio is None or change.ratio[1] <= 1 <= change.ratio[2]
        assert not (change.shift and change.shift.significant)


def test_words_for_what_no_test_can_tell(tmp_path):
    """A tool that no longer runs, a goal that is missed now, a known mistake that is made now; medians at 0 have no ratio."""
    goal = Goal(least=False, value=100)

    def rows(refused, cost, right, error):
        return [
            Measurement("start", "peer", "time", "ms", [] if refused else [1.0], refused=refused),
            Measurement("kernel cost", "lab rtt", "time", "ns", [cost] * 5, goal=goal),
            Measurement("corpus", "peer", "S1", "verdict", [right]),
            Measurement("accuracy", "lab rtt", "error", "ns", error),
        ]

    before, after = rows(None, 90.0, 1.0, [-5.0, 0.0, 5.0]), rows("needs kprobes", 110.0, 0.0, [-4.0, 0.0, 6.0])
    told = {
        change.after.figure: change
        for change in compared(tmp_path, {"measurements": before}, {"measurements": after}).figures
    }
    assert [told[name].verdict for name in ("start", "kernel cost", "corpus")] == [
        "cannot run any more",
        "goal missed now",
        "wrong now",
    ]
    assert told["corpus"].shift is None
    assert told["accuracy"].ratio is None
    assert told["kernel cost"].ratio == pytest.approx((11 / 9,) * 3)


def test_as_text_and_as_json(tmp_path, capsys):
    """Both tell the same; whatever changed, the status is 0."""
    before, after = (
        folder(tmp_path / "a", checks=checks(1, wrong=0), measurements=measurements(2)),
        folder(tmp_path / "b", checks=checks(2, slow=3), measurements=measurements(3, slow=2)),
    )
    assert main(["compare", str(before), str(after)]) == 0
    text = capsys.readouterr().out
    assert "1,283 checks, 3 wrong" in text
    assert "16 changed significantly" in text
    assert "test_lost_syn[4] / duration / first SYN to first FIN" in text
    assert main(["compare", str(before), str(after), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(bool(change["error"] and change["error"]["significant"]) for change in told["checks"]) == 16
    assert {change["verdict"] for change in told["checks"]} == {"right"}
    slower = [one["ratio"]["median"] for one in told["measurements"] if one["figure"] == "kernel cost"]
    assert len(slower) == 4
    assert min(slower) > 1.8


@pytest.mark.parametrize(
    "command", [["compare", "RUN", "nowhere"], ["report", "nowhere"], ["export", "nowhere", "-f", "csv"]]
)
def test_no_such_run(tmp_path, monkeypatch, capsys, command):
    """One sentence that says what to do, and status 2."""
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    folder(tmp_path / "RUN")
    assert main(command) == 2
    assert "nowhere is no run's folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["report"], ["export", "-f", "csv"]])
def test_no_results_yet(tmp_path, monkeypatch, capsys, command):
    """What has never been made is made by something, and that is named."""
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    assert main(command) == 2
    assert "run make demo" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_broken_run(tmp_path, capsys, text):
    """A run that does not say what it is cannot be read."""
    path = folder(tmp_path / "run")
    (path / "run.json").write_text(text)
    assert main(["compare", str(path), str(path)]) == 2
    assert "run.json" in capsys.readouterr().err
