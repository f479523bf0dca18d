"""The site of kept judgements: static pages that need no network, with the evidence of each verdict.

- `index.html`: a table for each kernel, the cost, what changed, the cases and the runs.
- `tool-*.html`: the evidence of one tool on one kernel. `evidence-*` and `replay-*` are the same for download.
- `judgements.json`: all judgements, for programs and for the next site.
- `ethics.html`: docs/ethics.md.

All files are in one folder: `replacing` follows no link in the place of a file, but not every link in the place of a folder.
"""

import errno
import gzip
import io
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
from jinja2 import Environment

from lab.errors import LabError
from lab.judging import cases, judgement
from lab.judging.finding import SEVERITY
from lab.judging.judgement import Evidence, Product
from lab.output.file import replacing, require_writable
from lab.output.text import printable
from lab.paths import DOCS
from lab.report import prose, standings
from lab.report.evidence import MARKS, Defined, Record, Told
from lab.report.measured import Row as Measured
from lab.report.rendering import inline, templates
from lab.report.standings import Change, Changes, Entry, Judged, Marker, Ran, Site
from lab.results import schema
from lab.results.measurement import Measurement
from lab.results.reader import RunFolder
from lab.results.writer import RUN

INDEX = "index.html"
ETHICS = "ethics.html"
JSON = "judgements.json"

_COSTS = ("kernel cost", "observer effect")
_WITHOUT = "none"  # the bench's name for a repetition without a tool
_OF_ONE_TOOL = (
    ", of its ",
    ", ratio to ",
)  # in quantities that compare nothing between tools: one program's, or a rank
_LARGE = 1_000_000  # bytes of evidence that is compressed
_OWN_FILE = re.compile(r"(tool|evidence|replay)-[A-Za-z0-9.-]+\.(html|json|json\.gz|tar\.gz)")
_REMEDY = "name another folder"


@dataclass(frozen=True)
class Line:
    """A line of a table: a product, the revision of the suite, the days of its runs, and an entry for each case."""

    product: Product
    page: str
    revision: str
    days: str
    kinds: list[str]
    cells: dict[str, Entry]


@dataclass(frozen=True)
class Table:
    """The lines of one kernel, and the cases that any of its tools was put to."""

    kernel: str
    lines: list[Line]
    cases: list[str]


@dataclass(frozen=True)
class Asked:
    """A case in the list of cases: its text, and the kinds of quantities that it is put to."""

    name: str
    text: str
    kinds: list[str]


@dataclass(frozen=True)
class Figure:
    """A figure of the bench: the measurements of each tool by quantity, and why other tools have none."""

    name: str
    quantities: list[str]
    tools: dict[str, dict[str, list[Measured]]]
    refused: dict[str, str]

    @classmethod
    def of(cls, name: str, measured: Sequence[Measurement]) -> "Figure":
        """Return the rows of a figure by which tools can be compared."""
        mine = [it for it in measured if it.figure == name and it.tool != _WITHOUT]
        shown = [it for it in mine if it.samples and not any(words in it.quantity for words in _OF_ONE_TOOL)]
        tools: dict[str, dict[str, list[Measured]]] = {}
        for one in shown:
            tools.setdefault(one.tool, {}).setdefault(one.quantity, []).append(Measured(one, ""))
        refused = {it.tool: it.refused or "no value" for it in mine if not it.samples and it.tool not in tools}
        return cls(name, list(dict.fromkeys(it.quantity for it in shown)), tools, refused)


@dataclass(frozen=True)
class Cost:
    """The cost of tools on one kernel, in one run of the bench."""

    run: Ran
    figures: list[Figure]


def write(runs: Sequence[RunFolder], folder: Path) -> Site:
    """Write the site of some runs to a folder, and return what its JSON holds.

    Raises `LabError` if a run has neither judgements nor costs, if none has judgements, and if the folder cannot be written or
    holds anything but a site.
    """
    runs = list({run.path: run for run in runs}.values())
    products = standings.chosen(runs)
    judging = {one.run.path for mine in products for one in mine}
    costs = _costs(runs)
    for run in runs:
        if run.path not in judging and not _kept_otherwise(run):
            raise LabError(f"{run.path} has neither judgements nor costs: give folders of `lab judge` and `lab bench`")
    if not products:
        raise LabError("none of these runs has judgements: give the folder of a run of `lab judge`")
    return _Writer(folder).write([Ran.of(run) for run in runs], products, costs)


def _kept_otherwise(run: RunFolder) -> bool:
    """Return whether a run has judgements that newer ones replace, or costs."""
    if (run.path / judgement.FILE).is_file():
        return bool(judgement.read(run.path))
    return any(one.figure in _COSTS for one in run.measurements)


def _costs(runs: Sequence[RunFolder]) -> list[Cost]:
    """Return the costs that the newest bench of each kernel has measured."""
    found: dict[str, Cost] = {}
    for run in sorted(runs, key=lambda it: (it.about.started, it.name)):
        names = [name for name in _COSTS if any(it.figure == name for it in run.measurements)]
        if names:
            found[run.kernel] = Cost(Ran.of(run), [Figure.of(name, run.measurements) for name in names])
    return list(found.values())


class _Writer:
    """Writes the files of one site. `files` lists those that it wrote, without the JSON."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[str] = []
        self._templates = _templates()

    def write(self, ran: list[Ran], products: list[list[Judged]], costs: list[Cost]) -> Site:
        """Write all files, and remove those of the site before that are not written again."""
        before, old = _before(self.folder)
        lines = [self._tool(mine) for mine in products]
        entries = [entry for line in lines for entry in line.cells.values()]
        changes = standings.changes(before, ran, entries)
        self._page(INDEX, "site_index.html", **_index(lines, changes), costs=costs, runs=ran)
        text = (DOCS / "ethics.md").read_text(encoding="utf-8")
        self._page(ETHICS, "site_ethics.html", blocks=prose.blocks(text))
        site = Site(runs=ran, judgements=entries, changes=changes, files=sorted(self.files))
        self._file(JSON, judgement.to_json(site).encode() + b"\n")
        for name in old:
            if name not in self.files and _OWN_FILE.fullmatch(name):
                (self.folder / name).unlink(missing_ok=True)
        return site

    def _tool(self, mine: list[Judged]) -> Line:
        """Write the page of a product, and its evidence."""
        product, name = mine[0].judgement.product, standings.name_of(mine[0].judgement.product)
        records = self._records(mine, name)
        page, archive = f"tool-{name}.html", f"replay-{name}.tar.gz"
        told = [Told.of(one, records[_key(one)]) for one in mine]
        kinds = list(dict.fromkeys(kind for it in records.values() for kind in it.evidence.tool.kinds))
        self._file(archive, _archive(name, mine, records))
        self._page(
            page, "site_tool.html", product=product, told=told, records=records.values(), defined=_defined(records),
            archive=archive, runs={one.run.path: Ran.of(one.run) for one in mine}.values(),
            revision=mine[0].judgement.revision,
        )  # fmt: skip
        cells = {
            one.judgement.case: Entry(
                msgspec.structs.replace(one.judgement, evidence=it.record.file),
                one.run.name, one.run.about.started, page, _kinds_of(one.judgement.case, kinds),
            )
            for one, it in zip(mine, told, strict=True)
        }  # fmt: skip
        days = " and ".join(sorted({one.run.about.started[:10] for one in mine}))
        return Line(product, page, mine[0].judgement.revision, days, kinds, cells)

    def _records(self, mine: list[Judged], name: str) -> dict[tuple[Path, str], Record]:
        """Write the evidence of a product, one file for each experiment of each run."""
        found: dict[tuple[Path, str], Record] = {}
        for one in mine:
            if not one.judgement.evidence:
                raise LabError(
                    f"{one.run.path} keeps no evidence of {one.judgement.product.tool}, {one.judgement.case}: judge it again"
                )
            if _key(one) not in found:
                evidence = judgement.read_evidence(one.run.path, one.judgement.evidence)
                if evidence.product != one.judgement.product:
                    raise LabError(
                        f"{one.run.path / one.judgement.evidence} is the evidence of {evidence.product}, not of "
                        f"{one.judgement.product}: judge tools of the same name in separate runs"
                    )
                found[_key(one)] = self._record(len(found) + 1, evidence, name)
            found[_key(one)].cases.append(one.judgement.case)
        return found

    def _record(self, number: int, evidence: Evidence, name: str) -> Record:
        file = f"evidence-{name}-{number}-{standings.plain(evidence.happened.experiment)}.json"
        content = judgement.to_json(evidence).encode()
        if len(content) > _LARGE:
            file, content = f"{file}.gz", gzip.compress(content, 6, mtime=0)
        self._file(file, content)
        return Record.of(number, evidence, file, len(content))

    def _page(self, file: str, template: str, **values: object) -> None:
        style, style_hash = inline("style.css", "site.css")
        script, script_hash = inline("site.js")
        text = self._templates.get_template(template).render(
            style=style, style_hash=style_hash, script=script, script_hash=script_hash, **values
        )
        self._file(file, text.encode())

    def _file(self, name: str, content: bytes) -> None:
        with replacing(self.folder / name, "wb") as file:
            file.write(content)
        if name != JSON:
            self.files.append(name)


def _key(one: Judged) -> tuple[Path, str]:
    return one.run.path, one.judgement.evidence


def _before(folder: Path) -> tuple[Site, list[str]]:
    """Create the folder of a site, or read the site that is there; returns it, and its files.

    A site of another version is replaced, but not compared. Raises `LabError` if the folder holds anything else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = sorted(it.name for it in folder.iterdir())
        mine = JSON in present and stat.S_ISREG((folder / JSON).lstat().st_mode)
    except OSError as error:
        why = "it is a file" if error.errno in (errno.EEXIST, errno.ENOTDIR) else error.strerror
        raise LabError(f"{folder} cannot be the folder of a site ({why}): {_REMEDY}") from error
    require_writable(folder / INDEX)
    if not present:
        # A site that is broken off can be written again.
        with replacing(folder / JSON) as file:
            file.write(judgement.to_json(Site()))
        return Site(), []
    if not mine:
        raise LabError(f"{folder} holds other files than a site of the lab (`{present[0]}`): {_REMEDY}")
    marker = schema.read(folder / JSON, msgspec.json.Decoder(Marker).decode, _REMEDY)
    if marker.schema != standings.SCHEMA:
        return Site(), marker.files
    return schema.read(folder / JSON, msgspec.json.Decoder(Site).decode, _REMEDY), marker.files


def _archive(name: str, mine: list[Judged], records: Mapping[tuple[Path, str], Record]) -> bytes:
    """Return the judgements of a product with their evidence as a run's folder, for `lab judge --replay`."""
    about = mine[-1].run.about
    lines, files = [], {RUN: msgspec.json.encode(about)}
    for one in mine:
        record = records[_key(one)]
        kept = f"{judgement.EVIDENCE}/{record.number}.json"
        lines.append(judgement.to_json(msgspec.structs.replace(one.judgement, evidence=kept)) + "\n")
        files[kept] = judgement.to_json(record.evidence).encode()
    files[judgement.FILE] = "".join(lines).encode()
    packed = io.BytesIO()
    # No times in the archive: the same runs give the same file.
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as whole,
        tarfile.open(fileobj=whole, mode="w") as tar,
    ):
        for file, content in files.items():
            info = tarfile.TarInfo(f"{name}/{file}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def _defined(records: Mapping[tuple[Path, str], Record]) -> list[Defined]:
    """Return the definitions of a tool's numbers, by its description in the newest evidence."""
    return [Defined.of(it) for it in [*records.values()][-1].evidence.tool.quantities]


def _kinds_of(case: str, kinds: list[str]) -> list[str]:
    """Return the kinds of a tool that a case is put to; all of them for a case that this version has not."""
    asked = next((it.kinds for it in cases.every() if it.name == case), tuple(kinds))
    return [kind for kind in kinds if kind in asked]


def _index(lines: list[Line], changes: Changes | None) -> dict[str, object]:
    """Return what the index shows: a table for each kernel, the cases, the kinds for the filter, and what changed."""
    kernels = dict.fromkeys(line.product.kernel for line in lines)
    tables = []
    for kernel in kernels:
        mine = [line for line in lines if line.product.kernel == kernel]
        tables.append(Table(kernel, mine, sorted({case for line in mine for case in line.cells})))
    texts: dict[str, str] = {}
    asked: dict[str, dict[str, None]] = {}
    for entry in sorted((it for line in lines for it in line.cells.values()), key=lambda it: it.started):
        one = entry.judgement
        texts[one.case] = one.text
        asked.setdefault(one.case, {}).update(dict.fromkeys(entry.kinds))
    found = [Asked(name, texts[name], list(asked[name])) for name in sorted(texts)]
    worse, better = _sorted_changes(changes)
    return {
        "tables": tables,
        "cases": found,
        "kinds": sorted({kind for case in found for kind in case.kinds}),
        "tools": len({line.product.tool for line in lines}),
        "changes": changes,
        "changed": [*worse, *better],
    }


def _sorted_changes(changes: Changes | None) -> Iterator[list[Change]]:
    """Yield the changes to a graver verdict, then the others."""
    found = changes.verdicts if changes else []
    for graver in (True, False):
        yield [it for it in found if (SEVERITY.index(it.after) < SEVERITY.index(it.before)) is graver]


def _anchor(case: str) -> str:
    """Return the id of a case within a page, the same on the page of every tool."""
    return f"case-{case}" if re.fullmatch(r"[A-Za-z0-9.-]+", case) else f"case-{case.encode().hex()}-hex"


def _web(address: str) -> str:
    """Return the address of a project if a browser should follow it; empty otherwise."""
    return address if re.fullmatch(r"https?://[\x21-\x7e]+", address) else ""


@cache
def _templates() -> Environment:
    # Tools, files and kernels give texts that may have control characters: pages show them as escapes.
    found = templates(finalize=lambda value: printable(value, "\n\t") if type(value) is str else value)
    found.filters |= {"anchor": _anchor, "web": _web}
    found.globals |= {"marks": MARKS, "index": INDEX, "ethics": ETHICS, "json": JSON}
    return found
