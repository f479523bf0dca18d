"""Which kept judgements a site shows, what changed since the site before, and the JSON of both.

What lives here: plain data. What does not: pages and files (`lab.report.site`).
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from msgspec import Struct

from lab.judging import judgement
from lab.judging.finding import Verdict
from lab.judging.judgement import Judgement, Product
from lab.results.reader import RunFolder

SCHEMA = 1
Program = Literal["tcp-truth-lab"]
"""Marks a JSON file as that of a site of the lab."""

_LONGEST = 60  # characters of a name within the name of a file


class Ran(Struct, frozen=True):
    """A run. `revision` is the suite's commit; `ended` is false if the run was killed or has not ended."""

    name: str
    started: str
    kernel: str
    revision: str
    ended: bool

    @classmethod
    def of(cls, run: RunFolder) -> "Ran":
        """Return a run by its folder."""
        about = run.about
        ended = about.status is not None or "attach_points" in run.environment  # lab.results.writer: Results.finish()
        return cls(run.name, about.started, run.kernel, about.commit or "", ended)


class Entry(Struct, frozen=True):
    """A judgement of the site.

    - `run`, `started`: the run that made it, and when.
    - `page`: the file with its evidence, for people. The judgement's own `evidence` is the file for programs.
    - `kinds`: the kinds of the quantities that the tool was asked for.
    """

    judgement: Judgement
    run: str
    started: str
    page: str
    kinds: list[str]


class Change(Struct, frozen=True):
    """A verdict that differs from that of the earlier site. `version_before` may be the same version."""

    tool: str
    kernel: str
    case: str
    version_before: str
    version: str
    before: Verdict
    after: Verdict
    page: str


class Changes(Struct, frozen=True):
    """What changed since the site before, which was made from the runs `since`.

    `new`, `gone`: the number of verdicts on a tool, case and kernel that only one of both sites has.
    """

    since: list[Ran]
    verdicts: list[Change]
    new: int
    gone: int


class Site(Struct, frozen=True):
    """The content of `judgements.json`. `files` lists the other files of the site."""

    schema: int = SCHEMA
    program: Program = "tcp-truth-lab"
    runs: list[Ran] = []
    judgements: list[Entry] = []
    changes: Changes | None = None
    files: list[str] = []


class Marker(Struct, frozen=True):
    """The part of `judgements.json` that every version has."""

    schema: int
    program: Program
    files: list[str] = []


@dataclass(frozen=True)
class Judged:
    """A judgement and the run that made it."""

    run: RunFolder
    judgement: Judgement


def name_of(product: Product) -> str:
    """Return a name for the files of a product: letters, digits, `.` and `-`, and different for different products."""
    whole = "\0".join(_identity(product))
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{plain(f'{product.tool}-{product.version}-{product.kernel}')}-{digest}"


def plain(text: str) -> str:
    """Return a text as a part of the name of a file."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text)[:_LONGEST].strip("-.") or "x"


def _identity(product: Product) -> tuple[str, str, str, str]:
    return product.tool, product.version, product.kernel, product.attach


def chosen(runs: Iterable[RunFolder]) -> list[list[Judged]]:
    """Return for each product the judgements that count, sorted by case; products sorted by tool, version and place.

    The newest run with the product decides on the revision of the suite. Other runs of that revision add cases that the newest
    has not; of one case the newest judgement counts. A revision with changed files names no suite: only the newest run counts.
    """
    found: dict[tuple[str, str, str, str], list[Judged]] = {}
    for run in sorted(runs, key=lambda it: (it.about.started, it.name)):
        if (run.path / judgement.FILE).is_file():
            for one in judgement.read(run.path):
                found.setdefault(_identity(one.product), []).append(Judged(run, one))
    return [_counting(found[key]) for key in sorted(found, key=_by_name)]


def _by_name(key: tuple[str, ...]) -> tuple[str, ...]:
    return key[0].casefold(), *key


def _counting(mine: Sequence[Judged]) -> list[Judged]:
    last = mine[-1]
    revision = last.judgement.revision
    settled = revision and not revision.endswith("+")
    cases = {
        it.judgement.case: it
        for it in mine
        if it.judgement.revision == revision and (settled or it.run.path == last.run.path)
    }
    return sorted(cases.values(), key=lambda it: it.judgement.case)


def changes(before: Site, runs: list[Ran], entries: Sequence[Entry]) -> Changes | None:
    """Return what changed since the site before; None if there was none.

    A site made again from the same runs keeps its changes. A product is compared with itself, or, if the site before has not this
    version, with the newest version of the tool on this kernel that is not in the site any more.
    """
    if not before.judgements:
        return None
    if before.runs == runs:
        return before.changes
    same = {(_identity(it.judgement.product), it.judgement.case): it for it in before.judgements}
    present = {_identity(it.judgement.product) for it in entries}
    replaced = [it for it in before.judgements if _identity(it.judgement.product) not in present]
    newest = {_subject(it): it for it in sorted(replaced, key=attrgetter("started"))}
    found, new = [], 0
    for entry in entries:
        one = entry.judgement
        earlier = same.get((_identity(one.product), one.case)) or newest.get(_subject(entry))
        if earlier is None:
            new += 1
        elif earlier.judgement.verdict != one.verdict:
            found.append(_change(earlier.judgement, entry))
    gone = {_subject(it) for it in before.judgements} - {_subject(it) for it in entries}
    return Changes(before.runs, found, new, len(gone))


def _subject(entry: Entry) -> tuple[str, str, str]:
    one = entry.judgement
    return one.product.tool, one.product.kernel, one.case


def _change(before: Judgement, entry: Entry) -> Change:
    one = entry.judgement
    return Change(
        one.product.tool,
        one.product.kernel,
        one.case,
        before.product.version,
        one.product.version,
        before.verdict,
        one.verdict,
        entry.page,
    )
