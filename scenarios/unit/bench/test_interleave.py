"""The order of interleaved measurements, goals, and the bench's tables."""

from itertools import pairwise

import pytest

from lab.bench import interleave, tools
from lab.bench.chapters import chapter, names, observer_effect
from lab.bench.context import explained
from lab.bench.show import tables
from lab.results.measurement import Goal, Measurement


def test_every_subject_is_in_every_repetition():
    """Consecutive repetitions start with different subjects."""
    order = list(interleave.order("abc", 4))
    repetitions = [order[at : at + 3] for at in range(0, len(order), 3)]
    assert all(sorted(subjects) == ["a", "b", "c"] for subjects in repetitions)
    assert all(before[0] != after[0] for before, after in pairwise(repetitions))


def test_ratios_are_within_a_repetition():
    """Results are indexed by repetition, whatever the order of the subjects."""
    rates = {"bare": iter([10.0, 20.0]), "tool": iter([5.0, 18.0])}
    measured = interleave.interleaved(("bare", "tool"), 2, lambda subject: next(rates[subject]))
    assert interleave.ratios(measured["tool"], measured["bare"]) == [0.5, 0.9]


def test_a_missed_goal_has_a_note():
    """The note states by how much the goal is missed, and why. A met goal has no note."""
    row = Measurement("start", "a", "q", "ms", [300.0], goal=Goal(least=False, value=150))
    assert explained(row, "it compiles").note == "2.00 times the goal: it compiles"
    met = Measurement("start", "a", "q", "ms", [100.0], goal=Goal(least=False, value=150))
    assert explained(met, "it compiles") is met


@pytest.mark.parametrize(
    ("case", "quantity", "name"), [("O1", "connections", "lab rtt"), ("X2", "bulk", "lab packets")]
)
@pytest.mark.parametrize(("kept", "verdict"), [(0.46, 0.0), (0.97, 1.0)])
def test_a_tool_that_slows_down_the_traffic_is_wrong(case, quantity, name, kept, verdict):
    """O1, X2: a tool, also one at XDP, under which the rate is provably below nine tenths is wrong in the corpus."""
    pairs = observer_effect.Pairs()
    (tool,) = (it for it in tools.every() if it.name == name)
    for rate in (100.0, 110.0, 90.0):
        pairs.without[tool, quantity].append(rate)
        pairs.with_tool[tool, quantity].append(rate * kept)
    rows = list(observer_effect.rows(pairs))
    (effect,) = (row for row in rows if row.figure == "observer effect" and row.tool == name)
    assert effect.median == pytest.approx(kept)
    assert [(row.quantity, row.samples) for row in rows if row.figure == "corpus"] == [(case, [verdict])]


def test_tables_start_with_the_goals():
    """Missed goals are marked. The corpus is a table of verdicts. Tools that cannot run come last, with the reason."""
    rows = [
        Measurement("start", "lab states", "ready", "ms", [300.0], goal=Goal(least=False, value=150), note="why"),
        Measurement("start", "peer", "ready", "ms", refused="needs kprobes"),
        Measurement("corpus", "peer", "S1", "verdict", [0.0, 0.0]),
        Measurement("corpus", "lab states", "S1", "verdict", [1.0, 1.0]),
    ]
    text = "\n".join(tables(rows))
    assert text.index("0 met, 1 missed") < text.index("MISSED") < text.index("corpus") < text.index("needs kprobes")
    assert [line.split() for line in text.splitlines() if "WRONG" in line] == [["peer", "WRONG"]]


def test_every_chapter_can_be_measured():
    """Every module is a chapter, with a docstring that explains its quantities."""
    assert {"accuracy", "kernel-cost"} <= set(names())
    assert all(callable(chapter(name).measure) and chapter(name).__doc__ for name in names())
