"""The HTML report of one or more runs: a single file that needs no network and runs only its own script."""

import base64
import gzip
import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jinja2 import Environment

from lab.output.file import replacing
from lab.probes import names as every_probe
from lab.report import layers, verdicts
from lab.report.figures import Bench, Trend
from lab.report.matrix import matrix
from lab.report.measured import COLUMNS, verdict_of
from lab.report.raw import Raw
from lab.report.rendering import inline, templates
from lab.report.table import Table
from lab.report.verdicts import MOST_ROWS, CheckTable, Probe
from lab.results.corpus import right_if
from lab.results.reader import RunFolder
from lab.results.schema import NotJudged
from lab.results.sharpness import TIME, Sharpness, sharpness
from lab.results.writer import RUN

_MOST_FAILED = 50  # failed checks listed above the table of all checks


@dataclass(frozen=True)
class Run:
    """A run as the page shows it.

    `environment` is the link to its run.json, `sharp` the widths of its brackets, `not_judged` what it has left out.
    """

    folder: RunFolder
    label: str
    environment: str
    probes: list[Probe]
    sharp: list[Sharpness]
    not_judged: list[NotJudged]
    bench: Bench
    layers: layers.Layers | None

    @classmethod
    def of(cls, folder: RunFolder, label: str, raw: Raw) -> "Run":
        """Read a run, and add its raw rows to `raw`."""
        probes = verdicts.probes(folder.checks)
        sharp = sorted(sharpness(folder.checks, lambda _: None).values(), key=lambda one: one.unit != TIME)
        return cls(
            folder,
            label,
            raw.link(folder.path / RUN),
            probes,
            sharp,
            _not_judged(folder, probes),
            Bench.of(folder, raw),
            layers.of(folder, raw),
        )


def _not_judged(folder: RunFolder, judged: list[Probe]) -> list[NotJudged]:
    """Return what a run has not judged, as it says itself and as its checks show."""
    if not judged:
        return []
    said = folder.about.not_judged
    found = [NotJudged("scenarios that were skipped", "this run does not say which")] if said is None else [*said]
    names = {probe.name for probe in judged} | {one.what.removeprefix("the probe ") for one in found}
    if missing := [name for name in every_probe() if name not in names]:
        probes = "the probe " if len(missing) == 1 else "the probes "
        found.append(NotJudged(probes + ", ".join(missing), "this run has no check of its numbers"))
    lost = ((probe.lost, probe.name) for probe in judged if probe.lost)
    found += [NotJudged(f"up to {count:,} events of {name}", "missing from a recording") for count, name in lost]
    if folder.checks.torn:
        found.append(NotJudged("the last line of checks.jsonl", "it is incomplete"))
    return found


def write(folders: list[RunFolder], path: Path) -> None:
    """Write the report of some runs. Raises `LabError` if a run cannot be read or the file cannot be written."""
    page = _render(folders, Raw(path.parent.resolve()))
    with replacing(path) as file:
        file.write(page)


def write_beside(run: Path) -> Path:
    """Write the report of one run into its folder and return its path; errors as of `write`."""
    path = run / "report.html"
    write([RunFolder.open(run)], path)
    return path


def offer(path: Path) -> str:
    """Return the lines that say how to open a report."""
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    return f"\nReport, one file of {size}, for a browser on this machine or on yours:\n  {path.resolve().as_uri()}"


def offered(printed: str) -> Path | None:
    """Return the report whose `offer` is in what a command printed, None if there is none."""
    found = re.search(r"^  file://(\S+)$", printed, re.MULTILINE)
    return Path(unquote(found[1])) if found else None


def _render(folders: list[RunFolder], raw: Raw) -> str:
    runs = [Run.of(folder, label, raw) for folder, label in zip(folders, _labels(folders), strict=True)]
    judged = [run for run in runs if run.probes]
    checks, measurements = CheckTable(raw), Table(list(COLUMNS))
    for run in runs:
        checks.add(run.folder, run.label)
        for row in run.bench.rows:
            row.add_to(measurements, run.label)
    (style, style_hash), (script, script_hash) = inline("style.css"), inline("script.js")
    return (
        _templates()
        .get_template("page.html")
        .render(
            runs=runs,
            judged=judged,
            one=runs[0] if len(runs) == 1 else None,
            wrong=sum(probe.wrong for run in runs for probe in run.probes),
            far=sum(probe.far for run in runs for probe in run.probes),
            failed=sorted(checks.failed, key=lambda row: row.story is None)[:_MOST_FAILED],
            checks=checks,
            goals=sum(len(run.bench.goals) for run in runs),
            reached=sum(run.bench.reached for run in runs),
            measurements=len(measurements.rows),
            matrix=matrix([run.folder for run in judged]) if len(judged) > 1 else {},
            matrix_labels=[run.label for run in judged],
            most_rows=MOST_ROWS,
            curves=verdicts.curves,
            verdict_of=verdict_of,
            right_if=right_if,
            data={
                "tables": {"checks": checks.table.data(), "measurements": measurements.data()},
                "raw": raw.entries,
            },
            style=style,
            script=script,
            style_hash=style_hash,
            script_hash=script_hash,
        )
    )


@cache
def _templates() -> Environment:
    found = templates()
    found.filters["packed"] = _packed
    found.tests["trend"] = lambda picture: isinstance(picture, Trend)
    return found


def _labels(folders: list[RunFolder]) -> list[str]:
    """Return a label for each run: its place, and its folder if several runs have the same place."""
    places = Counter(folder.place for folder in folders)
    return [folder.place if places[folder.place] == 1 else f"{folder.place}, {folder.name}" for folder in folders]


def _packed(data: Any) -> str:
    """Return data for the script: compressed JSON in Base64, which needs no HTML escaping."""
    # No timestamp in the gzip header: the same runs give the same page.
    return base64.b64encode(gzip.compress(json.dumps(data, ensure_ascii=False).encode(), mtime=0)).decode()
