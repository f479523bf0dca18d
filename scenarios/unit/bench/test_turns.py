"""The order of turns, goals that are missed, and the bench's tables."""

from itertools import pairwise

import pytest

from lab.bench import interleave, tools
from lab.bench.asked import Answer
from lab.bench.chapters import chapter, names, observer_effect
from lab.bench.context import explained
from lab.bench.show import tables
from lab.results.measurement import Goal, Measurement
from lab.verdict import Bracket


def test_everyone_has_a_turn_in_each_repetition():
    """And each repetition begins with another one."""
    order = list(interleave.order("abc", 4))
    repetitions = [order[at : at + 3] for at in range(0, len(order), 3)]
    assert all(sorted(them) == ["a", "b", "c"] for them in repetitions)
    assert all(before[0] != after[0] for before, after in pairwise(repetitions))


def test_results_stand_at_their_repetition():
    """Ratios are taken within one."""
    paces = {"bare": iter([10.0, 20.0]), "tool": iter([5.0, 18.0])}
    measured = interleave.interleaved(("bare", "tool"), 2, lambda subject: next(paces[subject]))
    assert interleave.ratios(measured["tool"], measured["bare"]) == [0.5, 0.9]


def test_a_missed_goal_says_by_how_much_and_why():
    """One that is met says nothing."""
    row = Measurement("start", "a", "q", "ms", [300.0], goal=Goal(least=False, value=150))
    assert explained(row, "it compiles").note == "2.00 times the goal: it compiles"
    met = Measurement("start", "a", "q", "ms", [100.0], goal=Goal(least=False, value=150))
    assert explained(met, "it compiles") is met


@pytest.mark.parametrize(
    ("told", "error", "right"), [(None, None, True), (15, 0, True), (21, 0, True), (25, 4, False), (4, 5, False)]
)
def test_an_answer_is_as_wrong_as_can_be_proved(told, error, right):
    """From the bracket's end, with the tool's own unit taken off; what is unknown is not wrong."""
    answer = Answer("time", Bracket(10, 20, 12), told, unit_ns=1)
    assert (answer.error, answer.right) == (error, right)
    assert not answer._replace(missing=True).right


@pytest.mark.parametrize(
    ("case", "quantity", "name"), [("O1", "connections", "lab rtt"), ("X2", "bulk", "lab packets")]
)
@pytest.mark.parametrize(("kept", "verdict"), [(0.46, 0.0), (0.97, 1.0)])
def test_a_tool_that_changes_what_it_observes(case, quantity, name, kept, verdict):
    """O1, X2: a tool, also one at XDP, that provably leaves less than nine tenths of the load's pace is wrong in the corpus."""
    pairs = observer_effect.Pairs()
    (tool,) = (it for it in tools.every() if it.name == name)
    for pace in (100.0, 110.0, 90.0):
        pairs.without[tool, quantity].append(pace)
        pairs.with_tool[tool, quantity].append(pace * kept)
    rows = list(observer_effect.rows(pairs))
    (effect,) = (row for row in rows if row.figure == "observer effect" and row.tool == name)
    assert effect.median == pytest.approx(kept)
    assert [(row.quantity, row.samples) for row in rows if row.figure == "corpus"] == [(case, [verdict])]


def test_tables_begin_with_the_goals():
    """Missed ones are told as such, who cannot run is told at the end with the reason, and the corpus is a table of verdicts."""
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
    """Each file is a chapter, with a docstring that says what its figures mean."""
    assert {"accuracy", "kernel-cost"} <= set(names())
    assert all(callable(chapter(name).measure) and chapter(name).__doc__ for name in names())
