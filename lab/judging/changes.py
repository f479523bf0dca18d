"""What changed between two judgements: verdicts of the same tool, kernel and case, and how sharp they were."""

from collections.abc import Sequence
from typing import NamedTuple

from lab.judging.finding import SEVERITY
from lab.judging.judgement import Judgement
from lab.output.text import printable, tabulated
from lab.units import duration_text

KINDS = ("graver", "blunter", "better", "only after", "only before")
"""What can happen to a verdict, the gravest first."""

_BLUNTER = 2  # times as wide


class Change(NamedTuple):
    """A verdict before and after. None: it was not judged in that run."""

    tool: str
    case: str
    before: Judgement | None
    after: Judgement | None

    @property
    def kind(self) -> str:
        """How it changed: `graver`, `better`, `only before`, `only after`, or `blunter` with the same verdict."""
        if self.after is None:
            return "only before"
        if self.before is None:
            return "only after"
        before, after = (SEVERITY.index(it.verdict) for it in (self.before, self.after))
        return "blunter" if before == after else "graver" if after < before else "better"


def changes(before: Sequence[Judgement], after: Sequence[Judgement]) -> list[Change]:
    """Return what changed, the gravest first. Versions of a tool are compared with each other, kernels are not."""
    old, new = ({(it.product.tool, it.product.kernel, it.case): it for it in run} for run in (before, after))
    found = [Change(key[0], key[2], old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new])]
    changed = [
        it
        for it in found
        if it.before is None or it.after is None or it.before.verdict != it.after.verdict or _is_blunter(it)
    ]
    return sorted(changed, key=lambda it: KINDS.index(it.kind))


def _is_blunter(change: Change) -> bool:
    if change.before is None or change.after is None or not change.before.widths_ns or not change.after.widths_ns:
        return False
    return change.after.widths_ns[0] > _BLUNTER * max(1, change.before.widths_ns[0])


def text(found: Sequence[Change]) -> str:
    """Return the changes as a table."""
    rows = ([it.kind, printable(it.tool), it.case, *(_shown(it, one) for one in (it.before, it.after))] for it in found)
    return tabulated(list(rows), ["judgement", "tool", "case", "before", "after"])


def as_dicts(found: Sequence[Change]) -> list[dict[str, str | None]]:
    """Return the changes for JSON."""
    return [
        {
            "kind": it.kind,
            "tool": it.tool,
            "case": it.case,
            "before": it.before.verdict if it.before else None,
            "after": it.after.verdict if it.after else None,
        }
        for it in found
    ]


def _shown(change: Change, one: Judgement | None) -> str:
    if one is None:
        return "-"
    width = f", intervals of {duration_text(one.widths_ns[0])}" if change.kind == "blunter" and one.widths_ns else ""
    version = f" ({one.product.version})" if one.product.version else ""
    return f"{one.verdict}{version}{width}"
