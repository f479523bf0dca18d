"""Comparison of two runs: real changes are found, and many comparisons do not give false ones."""

import json
import re

import numpy as np
import pytest
from support.made.run_folder import checks, folder, measurements

from lab.cli import main
from lab.results.compare import compare
from lab.results.measurement import Goal, Measurement
from lab.results.reader import RunFolder
from lab.units import MS
from lab.verdict import Bracket, Judge


def compared(tmp_path, before, after):
    """Return the comparison of two runs, each given as arguments of `folder`."""
    paths = [folder(tmp_path / name, **what) for name, what in (("before", before), ("after", after))]
    return compare(*(RunFolder.open(path) for path in paths))


def test_changed_verdicts(tmp_path):
    """The four verdicts: broken, mended, wrong, right. Quantities of only one run are named."""

    def judged(**measured):
        return [
            Judge("s", "duration", "tc:ingress").count("a", name, Bracket.exactly(1), value)
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
    """Errors three times as large are found in every quantity with a spread; equal errors are not tested."""
    found = compared(tmp_path, {"checks": checks(1)}, {"checks": checks(2, slow=3)})
    timed = [change for change in found.checks if change.group.quantity in {"time in ESTABLISHED", "first SYN at"}]
    assert len(timed) == 16
    assert all(
        change.shift.significant and change.shift.larger > 0.5 and change.shift.after > change.shift.before
        for change in timed
    )
    assert all(change.shift.p is None for change in found.checks if change.group.quantity == "SYN retransmissions")
    assert all(change.shift is None for change in found.checks if change.group.quantity == "owner")


def test_blunter_brackets_are_found(tmp_path, capsys):
    """A quantity whose values are right in both runs, and in the second with less proof: in text and in JSON."""

    def judged(scenario="s", exact=0, **widths):
        judge = Judge(scenario, "rtt", "tc:ingress")
        times = [
            judge.duration("a", name, Bracket.early(0, width), 0) for name, all_ in widths.items() for width in all_
        ]
        return [*times, judge.count("a", "packets", Bracket.early(0, exact), 0), judge.equal("a", "port", 80, 80)]

    before = judged(same=[40_000] * 9, p50=[40_000] * 9, p90=[40_000] * 9, sharper=[200 * MS] * 9)
    after = [
        *judged(same=[59_000] * 9, p50=[61_000] * 9, p90=[40_000] * 7 + [200 * MS] * 2, sharper=[40_000] * 9, exact=3),
        *judged(scenario="only after", same=[200 * MS] * 99),
    ]
    found = compared(tmp_path, {"checks": before}, {"checks": after})
    assert {one.quantity: one.verdict for one in found.widths} == {
        "same": "",
        "p50": "blunter",
        "p90": "blunter",
        "sharper": "sharper",
        "packets": "blunter",
    }
    runs = [str(tmp_path / name) for name in ("before", "after")]
    assert main(["compare", *runs]) == 0
    text = capsys.readouterr().out
    assert "Brackets: 5 quantities in both runs have widths: 3 became blunter, 1 sharper" in text
    assert re.search(r"^rtt +p90 +blunter +40.000 us +40.000 us +40.000 us +200.000 ms", text, re.MULTILINE)
    assert re.search(r"^rtt +packets +blunter +- +3 +- +3", text, re.MULTILINE)
    assert "Width of the brackets: of 36 times p50 40.000 us, p90 200.000 ms. 2 checks are exact." in text
    assert main(["compare", *runs, "--json"]) == 0
    (packets,) = [one for one in json.loads(capsys.readouterr().out)["widths"] if one["quantity"] == "packets"]
    assert (packets["verdict"], packets["before"]["width_p50"], packets["after"]["width_p50"]) == ("blunter", None, 3)


def test_chance_is_no_change(tmp_path):
    """Of 400 quantities with equal distributions none changes significantly; without the correction, 20 would."""

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
    """Twice the cost is significant, with 2 in the interval of the ratio; a run compared with itself has ratio 1."""
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


def test_changes_without_a_test(tmp_path):
    """A tool that stops running, a goal newly missed, a known mistake newly made; a median of 0 has no ratio."""
    goal = Goal(least=False, value=100)

    def rows(refused, cost, right, error):
        return [
            Measurement("start", "peer", "time", "ms", [] if refused else [1.0], refused=refused),
            Measurement("kernel cost", "lab rtt", "time", "ns", [cost] * 5, goal=goal),
            Measurement("corpus", "peer", "S1", "verdict", [right]),
            Measurement("accuracy", "lab rtt", "error", "ns", error),
        ]

    before, after = rows(None, 90.0, 1.0, [-5.0, 0.0, 5.0]), rows("needs kprobes", 110.0, 0.0, [-4.0, 0.0, 6.0])
    found = {
        change.after.figure: change
        for change in compared(tmp_path, {"measurements": before}, {"measurements": after}).figures
    }
    assert [found[name].verdict for name in ("start", "kernel cost", "corpus")] == [
        "cannot run any more",
        "goal missed now",
        "wrong now",
    ]
    assert found["corpus"].shift is None
    assert found["accuracy"].ratio is None
    assert found["kernel cost"].ratio == pytest.approx((11 / 9,) * 3)


def test_as_text_and_as_json(tmp_path, capsys):
    """Text and JSON report the same changes; the exit status is 0."""
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
    printed = json.loads(capsys.readouterr().out)
    assert sum(bool(change["error"] and change["error"]["significant"]) for change in printed["checks"]) == 16
    assert {change["verdict"] for change in printed["checks"]} == {"right"}
    slower = [one["ratio"]["median"] for one in printed["measurements"] if one["figure"] == "kernel cost"]
    assert len(slower) == 4
    assert min(slower) > 1.8


@pytest.mark.parametrize(
    "command", [["compare", "RUN", "nowhere"], ["report", "nowhere"], ["export", "nowhere", "-f", "csv"]]
)
def test_no_such_run(tmp_path, monkeypatch, capsys, command):
    """A missing run gives one sentence and exit status 2."""
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    folder(tmp_path / "RUN")
    assert main(command) == 2
    assert "nowhere is no run's folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["report"], ["export", "-f", "csv"]])
def test_no_results_yet(tmp_path, monkeypatch, capsys, command):
    """Without any results, the error names the command that writes some."""
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    assert main(command) == 2
    assert "run make demo" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_broken_run(tmp_path, capsys, text):
    """A run with a broken run.json gives one sentence and exit status 2."""
    path = folder(tmp_path / "run")
    (path / "run.json").write_text(text)
    assert main(["compare", str(path), str(path)]) == 2
    assert "run.json" in capsys.readouterr().err
