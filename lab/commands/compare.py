"""Compare two runs and show the significant changes.

- Checks, by scenario, probe and quantity: changed verdicts and absolute errors.
- Brackets, by probe and quantity: widths, and the quantities that became blunter.
- Judgements of tools (`lab judge`), by tool, kernel and case: changed verdicts,
  and intervals of the truth that became more than twice as wide.
- Bench, by figure, tool, quantity and conditions: ratio of the medians (after
  to before) with its 95 % interval.

Exit status: 0 if the runs could be compared, even if they differ; 1 if a
judgement changed as --fail-on says.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.judging import changes, judgement
from lab.output.text import printable, tabulated
from lab.results.compare import FACTOR, CheckChange, Comparison, Shift, compare
from lab.results.reader import RunFolder
from lab.results.sharpness import widths
from lab.units import amount_text

EXAMPLES = """\
examples:
  lab compare 20261121T185627-7276 20261121T213741-29163
  lab compare results/RUN results/latest --json |
      jq '.checks[] | select(.verdict == "broken")'
"""

DETAILS = """\
details:
  Samples are compared by the test of Mann and Whitney. The p-values are corrected
  for multiple comparisons (Benjamini and Hochberg): at most 5 % of the changes
  shown as significant are expected to be chance.
  The widths of brackets are those of half (p50) and nine tenths (p90) of the
  checks, in the scenarios of both runs. A quantity is blunter if one of them is
  more than 1.5 times what it was. A check then misses larger errors than before.
  P(larger) is the probability that a value of the second run is larger than a
  value of the first; 0.5 means no difference.
  A significant difference may be caused by the program or by the machine. To see
  the effect of the machine, compare two runs of the same commit.
"""

_MOST = 20  # rows of a table, without --all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("before", type=Path, metavar="RUN", help="folder of the first run")
    parser.add_argument("after", type=Path, metavar="RUN", help="folder of the second run")
    parser.add_argument("-a", "--all", action="store_true", help="print all rows, including unchanged ones")
    parser.add_argument(
        "--fail-on",
        type=_kinds,
        default=(),
        metavar="KINDS",
        help=f"exit with 1 if a judgement changed so; separated by commas: {', '.join(changes.KINDS)}",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(word.strip() for word in text.split(","))
    if unknown := [kind for kind in kinds if kind not in changes.KINDS]:
        raise argparse.ArgumentTypeError(f"`{unknown[0]}` is no change: choose from {', '.join(changes.KINDS)}")
    return kinds


def _judgements(before: RunFolder, after: RunFolder) -> list[changes.Change]:
    """Return the changed verdicts of two runs of `lab judge`; none if one of them is another kind of run."""
    if not all((run.path / judgement.FILE).is_file() for run in (before, after)):
        return []
    return changes.changes(judgement.read(before.path), judgement.read(after.path))


def run(args: argparse.Namespace) -> int:
    """Compare two runs and print the changes."""
    before, after = RunFolder.open(args.before), RunFolder.open(args.after)
    found = compare(before, after)
    judged = _judgements(before, after)
    status = int(any(it.kind in args.fail_on for it in judged))
    if args.json:
        print(json.dumps(found.as_dict() | {"judgements": changes.as_dicts(judged)}, indent=2))
        return status
    for when, one in (("before", before), ("after", after)):
        wrong = len(one.checks.rows) - int(one.checks.rows["passed"].sum())
        print(
            f"{when + ':':<7} {printable(f'{one.place}, {one.name}')}: {len(one.checks.rows):,} checks, {wrong:,} wrong"
        )
        if len(one.checks.rows):
            print(f"{'':<7} {widths(one.checks)}")
    print()
    most = None if args.all else _MOST
    parts = (
        _verdicts(found, most),
        _widths(found, most, everything=args.all),
        _errors(found, most, everything=args.all),
        [f"\n{changes.text(judged[:most])}"] if judged else [],
        _bench(found, most, everything=args.all),
        _alone(found, most),
    )
    print(printable("\n\n".join(text for part in parts if (text := "\n".join(part))), keep="\n"))
    return status


def _verdicts(found: Comparison, most: int | None) -> Iterator[str]:
    changed = [one for one in found.checks if one.verdict in {"broken", "mended"}]
    if not found.checks:
        yield "Checks: the runs have no quantity in common."
        return
    words = {word: sum(one.verdict == word for one in found.checks) for word in ("broken", "mended", "wrong", "right")}
    yield (
        f"Checks: {len(found.checks):,} quantities in both runs: "
        f"{words['broken']:,} wrong only after, {words['mended']:,} wrong only before, "
        f"{words['wrong']:,} wrong in both, {words['right']:,} right in both."
    )
    rows = [
        (
            *_names(one),
            one.verdict,
            *(f"{side.wrong:,} of {side.checks:,}" for side in (one.before, one.after)),
            *(side.sharp.texts[0] for side in (one.before, one.after)),
        )
        for one in changed
    ]
    heads = ("scenario", "probe", "quantity", "verdict", "wrong before", "after", "width p50 before", "after")
    yield from _table(rows, heads, most)


def _widths(found: Comparison, most: int | None, *, everything: bool) -> Iterator[str]:
    if not found.widths:
        return
    words = {word: sum(one.verdict == word for one in found.widths) for word in ("blunter", "sharper")}
    yield (
        f"Brackets: {len(found.widths):,} quantities in both runs have widths: {words['blunter']:,} became blunter, "
        f"{words['sharper']:,} sharper (p50 or p90 changed by more than a factor of {FACTOR})."
    )
    ordered = sorted(found.widths, key=lambda one: -one.growth)
    rows = [
        (
            one.probe,
            one.quantity,
            one.verdict,
            *(text for texts in zip(one.before.texts, one.after.texts, strict=True) for text in texts),
        )
        for one in ordered
        if everything or one.verdict
    ]
    heads = ("probe", "quantity", "", "width p50 before", "after", "width p90 before", "after")
    yield from _table(rows, heads, most)


def _errors(found: Comparison, most: int | None, *, everything: bool) -> Iterator[str]:
    known = [(one, one.shift) for one in found.checks if one.shift]
    tested = sorted(((one, shift) for one, shift in known if shift.p is not None), key=lambda pair: _strength(pair[1]))
    changed = [(one, shift) for one, shift in tested if shift.significant]
    if not known:
        return
    yield (
        f"Errors: {len(known):,} quantities have errors in both runs, {len(tested):,} can be tested "
        f"(the others have too few values, or all are equal), {len(changed):,} changed significantly."
    )
    rows = [
        (
            *_names(one),
            amount_text(shift.before, one.group.unit),
            amount_text(shift.after, one.group.unit),
            f"{shift.larger:.2f}",
            _p(shift.p),
        )
        for one, shift in (tested if everything else changed)
    ]
    yield from _table(rows, ("scenario", "probe", "quantity", "median error before", "after", "P(larger)", "p"), most)


def _bench(found: Comparison, most: int | None, *, everything: bool) -> Iterator[str]:
    if not found.figures:
        return
    significant = [one for one in found.figures if one.shift and one.shift.significant]
    yield f"Bench: {len(found.figures):,} measurements in both runs, {len(significant):,} changed significantly."
    shown = [one for one in found.figures if everything or one in significant or one.verdict]
    rows = [
        (
            one.after.figure,
            one.after.tool,
            " ".join(filter(None, (one.after.quantity, one.after.conditions_text))),
            amount_text(one.before.median, one.after.unit),
            amount_text(one.after.median, one.after.unit),
            "" if one.ratio is None else "{:.3f} ({:.3f} .. {:.3f})".format(*one.ratio),
            _p(one.shift.p) if one.shift else "",
            one.verdict or ("changed" if one in significant else ""),
        )
        for one in shown
    ]
    yield from _table(rows, ("figure", "tool", "quantity", "before", "after", "ratio", "p", ""), most)


def _alone(found: Comparison, most: int | None) -> Iterator[str]:
    for when, names in (("before", found.only_before), ("after", found.only_after)):
        if names:
            more = f", and {len(names) - most:,} more" if most is not None and len(names) > most else ""
            yield f"Only {when}: {'; '.join(names[:most])}{more}."


def _table(rows: Sequence[Sequence[str]], heads: Sequence[str], most: int | None) -> Iterator[str]:
    if rows:
        yield tabulated(rows[:most], heads, disable_numparse=True, maxcolwidths=[36] * len(heads))
    if most is not None and len(rows) > most:
        yield f"... and {len(rows) - most:,} more (--all)"


def _names(one: CheckChange) -> tuple[str, str, str]:
    return one.group[:3]


def _strength(shift: Shift) -> tuple[float, float]:
    """Return a sort key that puts the clearest change first."""
    return -abs((shift.larger or 0) - 0.5), shift.p or 0


def _p(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
