"""Judgements for people and for machines: tables, evidence as text, JUnit XML, a badge."""

import re
from collections.abc import Iterator, Sequence
from typing import IO
from xml.sax.saxutils import escape

from lab.judging.case import Case
from lab.judging.description import Description
from lab.judging.finding import SEVERITY, Finding, Verdict, worst
from lab.judging.judgement import Judgement, widths
from lab.judging.kinds import KINDS
from lab.judging.points import POINTS
from lab.output.text import printable, tabulated
from lab.results.junit import case_lines
from lab.units import duration_text

_FEW = 3  # tools in one table
_MOST = 1  # findings of a judgement, without --all
_COLOURS = {
    Verdict.RIGHT: "#2e7d32",
    Verdict.UNKNOWN: "#2e7d32",
    Verdict.LOST: "#b26a00",
    Verdict.CANNOT_RUN: "#616161",
}
_WRONG = "#b3261e"
_BADGE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{label}: {value}">
<title>{label}: {value}</title>
<rect width="{left}" height="20" fill="#424242"/><rect x="{left}" width="{right}" height="20" fill="{colour}"/>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">
<text x="{middle}" y="14">{label}</text><text x="{other}" y="14">{value}</text>
</g></svg>
"""


def listing(tools: Sequence[Description], cases: Sequence[Case]) -> str:
    """Return the cases, the kinds and the tools as text."""
    kinds = tabulated(
        [[name, kind.text, ", ".join(kind.fields)] for name, kind in KINDS.items()],
        ["kind", "", "fields"],
        maxcolwidths=[None, 40, 60],
    )
    asked = tabulated(
        [[case.name, case.text, ", ".join(case.kinds)] for case in cases],
        ["case", "a correct tool", "kinds"],
        maxcolwidths=[None, 60, 40],
    )
    shown = tabulated(
        [[tool.name, ", ".join(tool.kinds), tool.attach] for tool in tools], ["tool", "kinds", "attach point"]
    )
    return f"{kinds}\n\n{asked}\n\n{shown}"


def points() -> str:
    """Return the points as text."""
    return tabulated([list(it) for it in POINTS.items()], ["point", "when it is reached"], maxcolwidths=[None, 90])


def report(found: Sequence[Judgement], *, everything: bool = False) -> str:
    """Return a matrix of verdicts, the evidence of what is not right, and one line of numbers for each tool."""
    # A tool that cannot run says so of every case.
    first = {(it.product, it.why): it for it in reversed(found) if it.verdict is Verdict.CANNOT_RUN}
    shown = [it for it in found if it.verdict is not Verdict.CANNOT_RUN or first[it.product, it.why] is it]
    parts = [matrix(found), *(_evidence(one, everything=everything) for one in shown), *summaries(found)]
    return "\n".join(filter(None, parts))


def matrix(found: Sequence[Judgement]) -> str:
    """Return tables of verdicts: a row for each case if there are few tools, otherwise a table for each group of cases."""
    products = list(dict.fromkeys(one.product for one in found))
    cells = {(one.case, str(one.product)): str(one.verdict) for one in found}
    if len(products) <= _FEW:
        texts = {one.case: one.text for one in found}
        rows = [[case, text, *(cells.get((case, str(it)), "") for it in products)] for case, text in texts.items()]
        head = ["case", "a correct tool", *map(str, products)]
        return tabulated(rows, head, maxcolwidths=[None, 50, *[24] * len(products)])
    tables = []
    for group in dict.fromkeys(re.sub(r"\d.*", "", one.case) for one in found):
        cases = sorted({one.case for one in found if one.case.startswith(group)})
        rows = [[str(it), *(cells.get((case, str(it)), "") for case in cases)] for it in products]
        tables.append(
            tabulated([row for row in rows if any(row[1:])], ["tool", *cases], maxcolwidths=[44, *[10] * len(cases)])
        )
    return "\n\n".join(tables)


def _evidence(one: Judgement, *, everything: bool) -> str:
    if one.verdict in (Verdict.RIGHT, Verdict.NOT_ASKED) and not everything:
        return ""
    lines = [f"\n{one.product.tool}, {one.case}: {one.verdict}{f' ({printable(one.why)})' if one.why else ''}"]
    if one.definitions and one.verdict is not Verdict.CANNOT_RUN:
        lines.append(f"  it measures {'; '.join(one.definitions)}")
    grave = sorted(one.findings, key=lambda it: SEVERITY.index(it.verdict))
    wanted = grave if everything else [it for it in grave if it.verdict != Verdict.RIGHT][:_MOST]
    for finding in wanted:
        lines += _lines(finding)
    left = sum(number for verdict, number in one.counts.items() if verdict != Verdict.RIGHT) - len(wanted)
    if left > 0 and not everything:
        lines.append(f"  and {left} more: --all prints them")
    return "\n".join(lines)


def _lines(finding: Finding) -> Iterator[str]:
    yield f"  {finding.verdict}: {printable(finding.sentence())}"
    if finding.known_by:
        yield f"    the truth is known by {finding.known_by}"
    for row in finding.rows[:1]:
        yield f"    the tool printed: {printable(row)}"


def summaries(found: Sequence[Judgement]) -> Iterator[str]:
    """Yield a line for each tool: what was judged, and how wide the intervals of its times were."""
    for product in dict.fromkeys(str(one.product) for one in found):
        mine = [one for one in found if str(one.product) == product]
        numbers = sum(one.numbers for one in mine)
        verdicts = ", ".join(
            f"{sum(one.verdict == it for one in mine)} {it}"
            for it in SEVERITY
            if any(one.verdict == it for one in mine)
        )
        found_widths = widths([finding for one in mine for finding in one.findings])
        sharp = ""
        if found_widths:
            half, most = map(duration_text, found_widths)
            sharp = f"; width of the intervals of time: p50 {half}, p90 {most}"
        judged = f"{numbers} values" if numbers else "no value was judged"
        definitions = dict.fromkeys(text for one in mine for text in one.definitions)
        measures = f"; it measures {'; '.join(definitions)}" if definitions else ""
        yield printable(f"{product}: {verdicts}; {judged}{sharp}{measures}")


def write_junit(file: IO[str], found: Sequence[Judgement], failing: Sequence[Verdict]) -> None:
    """Write a test case for each judgement. One of the `failing` verdicts is a failure, cases that cannot run are skipped."""
    file.write('<?xml version="1.0" encoding="utf-8"?>\n')
    wrong = sum(one.verdict in failing for one in found)
    file.write(f'<testsuite name="lab judge" tests="{len(found)}" failures="{wrong}">\n')
    for one in found:
        sentences = [one.why, *(it.sentence() for it in one.findings if it.verdict != Verdict.RIGHT)]
        said = "; ".join(sentences[:6]).strip("; ")
        outcome = "skipped" if one.verdict in (Verdict.CANNOT_RUN, Verdict.NOT_ASKED) else ""
        if one.verdict in failing:
            outcome = "failure"
        file.writelines(case_lines(str(one.product), f"{one.case}: {one.text}", outcome, f"{one.verdict}: {said}"))
    file.write("</testsuite>\n")


def badge(found: Sequence[Judgement]) -> str:
    """Return an SVG: how many cases are right or said to be unknown, in the colour of the gravest verdict."""
    asked = [one for one in found if one.verdict not in (Verdict.CANNOT_RUN, Verdict.NOT_ASKED)]
    right = sum(one.verdict in (Verdict.RIGHT, Verdict.UNKNOWN) for one in asked)
    label, value = "TCP truth", f"{right} of {len(asked)} cases right" if asked else "cannot run"
    left, right_width = (7 * len(text) + 12 for text in (label, value))
    grave = worst([one.verdict for one in asked or found])
    return _BADGE.format(
        label=escape(label), value=escape(value), left=left, right=right_width, width=left + right_width,
        middle=left / 2, other=left + right_width / 2, colour=_COLOURS.get(grave, _WRONG),
    )  # fmt: skip
