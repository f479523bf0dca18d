"""Text tables of the bench's rows: goals first, then one table per figure, then the tools that cannot run here."""

from collections.abc import Iterable, Iterator

from lab.output.text import tabulated
from lab.results.corpus import right_if
from lab.results.measurement import Measurement
from lab.units import amount_text

_WIDTH = 60
_VERDICTS = {1.0: "right", 0.0: "WRONG"}


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
        if figure == "corpus":
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
    if reasons := dict.fromkeys((row.tool, row.refused) for row in rows if row.refused and row.figure != "corpus"):
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
