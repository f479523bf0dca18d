"""Judgements: the verdict on one tool in one case, with its evidence. A function of plain data, which can be repeated."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from lab.errors import LabError
from lab.judging import cases, reading
from lab.judging.case import Case
from lab.judging.description import Description
from lab.judging.finding import Finding, Verdict, matched, worst
from lab.judging.happened import Happened
from lab.judging.kinds import KINDS
from lab.judging.quantity import Quantity
from lab.judging.stage import Printed
from lab.results import schema

FILE = "judgements.jsonl"
EVIDENCE = "evidence"
NOBODY = "nobody"
"""Name of the experiment without traffic. A tool that tells something of it has made it up."""

_MOST_FINDINGS = 200  # of one verdict that are kept


class Product(Struct, frozen=True):
    """What was judged: a tool's name and version, the kernel, and where the tool's program runs."""

    tool: str
    version: str
    kernel: str
    attach: str
    project: str = ""
    ours: bool = False

    def __str__(self) -> str:
        return ", ".join(filter(None, (f"{self.tool} {self.version}".strip(), self.kernel, self.attach)))


class Judgement(Struct, frozen=True):
    """The verdict on a tool in a case: one line of `judgements.jsonl`.

    - `counts`: the number of findings by verdict; `findings` has all but right ones, and some of those.
    - `why`: the tool's own words, or what it changed.
    - `definitions`: what the tool says that it measures.
    - `widths_ns`: the widths of the intervals of its times, half of them and nine tenths (median, 90 %).
    - `evidence`: the file with the truth and with what the tool printed, in the run's folder.
    """

    product: Product
    case: str
    text: str
    verdict: Verdict
    counts: dict[str, int]
    findings: list[Finding]
    why: str = ""
    definitions: list[str] = []
    widths_ns: tuple[int, int] | None = None
    evidence: str = ""
    revision: str = ""

    @property
    def numbers(self) -> int:
        """Number of values that were judged."""
        return sum(self.counts.values())


class Evidence(Struct, frozen=True):
    """Everything from which a judgement follows: the description, what happened, and what the tool printed."""

    product: Product
    tool: Description
    happened: Happened
    printed: Printed
    changed: list[str] = []


def judged(case: Case, evidence: Evidence) -> tuple[Verdict, list[Finding], str]:
    """Return the verdict on a case, the findings that count for it, and the tool's own words.

    Raises `LabError` if the description does not fit what the tool printed.
    """
    tool, printed = evidence.tool, evidence.printed
    if printed.unknown_case:
        return Verdict.NOT_ASKED, [], "it says that it does not know this case (status 127)"
    if printed.refused:
        return Verdict.CANNOT_RUN, [], printed.refused
    found = findings(case, tool, evidence.happened, printed)
    if printed.early is not None:
        last = (printed.stderr or printed.output).strip().splitlines()[-1:]
        return Verdict.CRASHED, found, f"it ended by itself with {_status(printed.early)}: {' '.join(last)[:200]}"
    if evidence.changed:
        return Verdict.CHANGED, found, "; ".join(evidence.changed)
    verdict = worst([it.verdict for it in found])
    return verdict, found, _explained(case, evidence, verdict)


def _explained(case: Case, evidence: Evidence, verdict: Verdict) -> str:
    """Return what an author should know: lines that were not read, and quantities that were not judged."""
    tool, printed = evidence.tool, evidence.printed
    if verdict is Verdict.MISSING:
        unread = reading.unread(tool, printed.output, evidence.happened.port)
        number = len(list(reading.records(tool, printed.output)))
        lines = printed.output.splitlines()
        if unread:
            return f"the description does not read this line: {unread}"
        if lines and not number:
            return f"the description reads none of the {len(lines)} lines that the tool printed; the first: {lines[0][:100]}"
        asked = [quantity for quantity in tool.quantities if quantity.kind in case.kinds]
        if number and not any(reading.told(tool, quantity, printed.output, "").rows for quantity in asked):
            return f"`where` matches none of the {number} records that the tool printed"
    unjudged = [
        quantity.definition
        for quantity in tool.quantities
        if quantity.kind in case.kinds and quantity.start and not _has_value(quantity, evidence.happened)
    ]
    return f"not judged, because no connection of this case has both points: {', '.join(unjudged)}" if unjudged else ""


def _has_value(quantity: Quantity, happened: Happened) -> bool:
    reached = [points for it in happened.connections for points in (it.client.points, *it.requests)]
    return not happened.connections or any({quantity.start, quantity.end} <= points.keys() for points in reached)


def _status(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


def findings(case: Case, tool: Description, happened: Happened, printed: Printed) -> list[Finding]:
    """Return the findings of a tool that count for a case. Raises `LabError` if the description does not fit the output."""
    found = []
    for quantity in tool.quantities:
        if quantity.kind in case.kinds:
            told = reading.told(tool, quantity, printed.output, printed.stderr)
            compare = case.compare or KINDS[quantity.kind].compare
            found += [it for it in compare(quantity, told, happened) if case.counts(it.quantity)]
    return found


def invented(evidence: Evidence) -> list[Finding]:
    """Return a finding for each kind of which a tool told something, although there was no traffic at all."""
    happened, found = evidence.happened, []
    hosts = {*happened.client, *happened.server}
    for quantity in evidence.tool.quantities:
        told = reading.told(evidence.tool, quantity, evidence.printed.output, evidence.printed.stderr)
        rows = [
            row for row in told.rows
            if hosts & {row.get(name) for name in ("laddr", "raddr", "source", "destination")} and row.get("count") != 0
            and happened.port in {row.get(name) for name in ("lport", "rport", "sport", "dport")}
        ]  # fmt: skip
        if rows:
            found.append(
                matched(quantity.kind, f"port {happened.port}", "nothing: there was no traffic", f"{len(rows)} rows", right=False,
                        known_by="nobody sent anything", rows=[row.raw for row in rows][:3])
            )  # fmt: skip
    return found


def judgement(case: Case, evidence: Evidence, *, file: str, revision: str) -> Judgement:
    """Return the judgement of a case from its evidence."""
    verdict, found, why = judged(case, evidence)
    counts: dict[str, int] = {}
    kept: list[Finding] = []
    for finding in found:
        counts[finding.verdict] = counts.get(finding.verdict, 0) + 1
        if counts[finding.verdict] <= _MOST_FINDINGS:
            kept.append(finding)
    definitions = [q.definition for q in evidence.tool.quantities if q.kind in case.kinds and q.definition]
    return Judgement(
        evidence.product, case.name, case.text, verdict, counts, kept, why, list(dict.fromkeys(definitions)),
        widths(found), file, revision,
    )  # fmt: skip


def widths(found: list[Finding]) -> tuple[int, int] | None:
    """Return the median and the 90th percentile of the widths of all intervals of time (ns); None without any."""
    spans = sorted(it.high - it.low for it in found if it.unit == "ns" and it.low is not None and it.high is not None)
    if not spans:
        return None
    return spans[len(spans) // 2], spans[min(len(spans) - 1, len(spans) * 9 // 10)]


def to_json(value: Struct) -> str:
    """Return a structure as one line of JSON."""
    return msgspec.json.encode(value).decode()


def read(folder: Path) -> list[Judgement]:
    """Return the judgements of a run. Raises `LabError` if it has none, or if they have another form."""
    path = folder / FILE
    if not path.is_file():
        raise LabError(f"{folder} has no judgements: give the folder of a run of `lab judge`")
    decoder = msgspec.json.Decoder(Judgement)

    def decode(content: bytes) -> list[Judgement]:
        return [decoder.decode(line) for line in content.splitlines()]

    return schema.read(path, decode, "give the folder of a run of `lab judge`")


def read_evidence(folder: Path, name: str) -> Evidence:
    """Return the evidence of a judgement. Raises `LabError` if it is missing or has another form."""
    path = (folder / name).resolve()
    if folder.resolve() not in path.parents:
        raise LabError(f"{name} is outside of the run's folder: the run is damaged")
    return schema.read(path, msgspec.json.Decoder(Evidence).decode, "give the folder of a run of `lab judge`")


def replayed(folder: Path, tools: Sequence[Description] = ()) -> Iterator[tuple[Judgement, Judgement]]:
    """Judge the kept evidence of a run again, without a kernel. Yield each judgement as it was kept and as it is now.

    With `tools`, only theirs, by these descriptions in place of the kept ones. Raises `LabError` if kept evidence must be
    read by Python code: a run can come from anybody.
    """
    descriptions = {tool.name: tool for tool in tools}
    by_name = {case.name: case for case in cases.every()}
    held: dict[str, Evidence] = {}
    for before in read(folder):
        if not before.evidence or before.case not in by_name:
            continue
        if tools and before.product.tool not in descriptions:
            continue
        if before.evidence not in held:
            kept = read_evidence(folder, before.evidence)
            tool = descriptions.get(kept.tool.name, kept.tool)
            if tool is kept.tool and tool.output.format == "python":
                raise LabError(f"the output of {tool.name} is read by Python code: name its description, too")
            held = {before.evidence: msgspec.structs.replace(kept, tool=tool)}
        yield (
            before,
            judgement(by_name[before.case], held[before.evidence], file=before.evidence, revision=before.revision),
        )


def show(happened: Happened) -> str:
    """Return what happened as indented JSON, for a person."""
    return json.dumps(msgspec.to_builtins(happened), indent=1)
