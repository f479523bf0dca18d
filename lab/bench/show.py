"""The bench's rows as text: a summary of one screen, or all tables, one for each figure."""

import textwrap
from collections.abc import Iterable, Iterator

from lab.output.text import printable, tabulated
from lab.results.corpus import right_if
from lab.results.measurement import Measurement
from lab.units import amount_text

_WIDTH = 60
_SCREEN = 80
_MOST_MISSED = 10
CORPUS = "corpus"
_VERDICTS = {1.0: "right", 0.0: "WRONG"}


def summary(rows: Iterable[Measurement]) -> Iterator[str]:
    """Yield how many goals are reached, the missed ones, the chapters, and the known mistakes; at most 48 lines of 80 columns."""
    rows = list(rows)
    goals = [row for row in rows if row.met is not None]
    missed = sorted((row for row in goals if not row.met), key=_distance, reverse=True)
    if goals:
        yield f"{len(goals) - len(missed)} of {len(goals)} goals are reached.{' Missed by most:' * bool(missed)}"
    for row in missed[:_MOST_MISSED]:
        found = f"{_value(row)[0]}, the goal is {_goal(row)}: {row.tool}, {row.figure}, {_what(row)}"
        yield textwrap.shorten(f"  {printable(found)}", _SCREEN, initial_indent="  ", placeholder=" ...")
    if len(missed) > _MOST_MISSED:
        yield f"  ... and {len(missed) - _MOST_MISSED} more"
    yield f"\n{'chapter':<16}  {'tools':>5}  {'numbers':>7}  goals reached"
    for figure in dict.fromkeys(row.figure for row in rows):
        mine = [row for row in rows if row.figure == figure and not row.refused]
        aims = [row.met for row in mine if row.met is not None]
        met = f"{sum(map(bool, aims))} of {len(aims)}" if aims else "-"
        yield f"{figure:<16}  {len({row.tool for row in mine}):>5}  {len(mine):>7}  {met}"
    if mistakes := _right(rows):
        yield f"\n{_filled('Known mistakes, right of those that each tool is asked about: ', mistakes)}"
    if refused := sorted({row.tool for row in rows} - {row.tool for row in rows if not row.refused}):
        yield f"\n{_filled('Cannot run here: ', refused)}"


def _distance(row: Measurement) -> float:
    """Return by how many times a goal is missed."""
    if row.goal is None or not row.goal.value or not row.median:
        return float("inf")
    ratio = row.median / row.goal.value
    return 1 / ratio if row.goal.least else ratio


def _right(rows: list[Measurement]) -> list[str]:
    """Return in how many rows of the corpus each tool is right, the best first."""
    samples: dict[str, list[bool]] = {}
    for row in rows:
        if row.figure == CORPUS and not row.refused:
            samples.setdefault(row.tool, []).append(row.median == 1)
    ranked = sorted(samples.items(), key=lambda item: (-sum(item[1]) / len(item[1]), item[0]))
    return [f"{tool} {sum(right)} of {len(right)}" for tool, right in ranked]


def _filled(head: str, items: list[str]) -> str:
    return textwrap.fill(head + ", ".join(map(printable, items)), _SCREEN, break_on_hyphens=False)


def tables(rows: Iterable[Measurement]) -> Iterator[str]:
    """Yield the tables, as text."""
    rows = list(rows)
    goals = [row for row in rows if row.met is not None]
    if goals:
        met = sum(bool(row.met) for row in goals)
        yield f"\ngoals: {met} met, {len(goals) - met} missed"
        yield tabulated(
            [["met" if row.met else "MISSED", row.figure, row.tool, _what(row), *_value(row), _goal(row), row.note] for row in goals],
            ["", "figure", "tool", "quantity", "median", "95 % interval", "goal", ""],
            disable_numparse=True,
            maxcolwidths=[None, None, None, 44, None, None, None, _WIDTH],
        )  # fmt: skip
    for figure in dict.fromkeys(row.figure for row in rows):
        mine = [row for row in rows if row.figure == figure and not row.refused]
        if not mine:
            continue
        yield f"\n{figure}"
        if figure == CORPUS:
            corpus = [row for row in rows if row.figure == figure]
            yield _corpus(corpus)
            yield "\na tool is right if"
            yield from (f"  {case}  {right_if(case)}" for case in sorted({row.quantity for row in corpus}))
            continue
        yield tabulated(
            [
                [_what(row), row.tool, *_value(row), len(row.samples), row.note]
                for row in sorted(mine, key=lambda row: row.quantity)
            ],
            ["quantity", "tool", "median", "95 % interval", "samples", ""],
            disable_numparse=True,
            colalign=("left", "left", "right", "right", "right", "left"),
            maxcolwidths=[44, None, None, None, None, _WIDTH],
        )
    if reasons := dict.fromkeys((row.tool, row.refused) for row in rows if row.refused and row.figure != CORPUS):
        yield "\ncannot run here"
        yield tabulated([list(reason) for reason in reasons], ["tool", "reason"], maxcolwidths=[None, 100])


def _corpus(rows: list[Measurement]) -> str:
    """Return a table of verdicts: one line per tool, one column per case."""
    tools = list(dict.fromkeys(row.tool for row in rows))
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        cells.setdefault(row.quantity, {})[row.tool] = (
            "cannot run" if row.refused else _VERDICTS.get(row.median, f"{row.median:.0%} right")
        )
    lines = [[tool, *(cells[case].get(tool, "") for case in sorted(cells))] for tool in tools]
    return tabulated(lines, ["tool", *sorted(cells)], disable_numparse=True)


def _what(row: Measurement) -> str:
    return f"{row.quantity} ({row.conditions_text})" if row.conditions else row.quantity


def _value(row: Measurement) -> tuple[str, str]:
    low, high = (amount_text(value, row.unit) for value in row.interval)
    return amount_text(row.median, row.unit), f"{low} .. {high}"


def _goal(row: Measurement) -> str:
    return f"{'at least' if row.goal.least else 'at most'} {amount_text(row.goal.value, row.unit)}" if row.goal else ""
