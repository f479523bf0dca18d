"""One page from several runs: everything in one file, which needs no network and runs no script but its own."""

import base64
import gzip
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lab.errors import LabError
from lab.html import layers, verdicts
from lab.html import matrix as side_by_side
from lab.html.chart import HEIGHT, WIDTH
from lab.html.figures import COLUMNS, Bench, Trend, verdict_of
from lab.html.raw import Raw
from lab.html.table import Table
from lab.html.verdicts import MOST_ROWS, CheckTable, Probe
from lab.results import RUN
from lab.run_folder import RunFolder

_MOST_FAILED = 50  # failed checks that are shown one by one, above the table of all


@dataclass(frozen=True)
class Run:
    """A run as the page tells of it."""

    name: str
    label: str
    folder: RunFolder
    environment: str
    probes: list[Probe]
    bench: Bench
    layers: layers.Layers | None
    torn: bool


def write(folders: list[RunFolder], path: Path) -> None:
    """Write the report on some runs. Raises `LabError` when a run cannot be read, or the file not be written."""
    page = _render(folders, path.parent)
    try:
        path.write_text(page)
    except OSError as error:
        raise LabError(
            f"the report cannot be written to {path} ({error.strerror}): choose another file with -o"
        ) from error


def _render(folders: list[RunFolder], beside: Path) -> str:
    raw = Raw(beside.resolve())
    checks, measurements = CheckTable(raw), Table(list(COLUMNS))
    runs = []
    for folder, label in zip(folders, _labels(folders), strict=True):
        bench = Bench.of(folder, raw)
        bench.fill(measurements, label)
        checks.add(folder, label)
        environment = raw.link(folder.path / RUN)
        probes = verdicts.probes(folder.checks)
        runs.append(
            Run(folder.name, label, folder, environment, probes, bench, layers.of(folder, raw), folder.checks.torn)
        )
    judged = [run.folder for run in runs if run.probes]
    tables = {"checks": checks.table.data(), "measurements": measurements.data()}
    style, script = (_source(name) for name in ("style.css", "script.js"))
    environment = Environment(
        loader=PackageLoader("lab.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["packed"] = _packed
    environment.tests["trend"] = lambda picture: hasattr(picture, "plot")
    return environment.get_template("page.html").render(
        runs=runs,
        one=runs[0] if len(runs) == 1 else None,
        checks=checks,
        wrong=sum(probe.wrong for run in runs for probe in run.probes),
        lost=sum(probe.lost for run in runs for probe in run.probes),
        failed=checks.failed[:_MOST_FAILED],
        matrix=side_by_side.matrix(judged) if len(judged) > 1 else {},
        matrix_labels=[run.label for run in runs if run.probes],
        most_rows=MOST_ROWS,
        curves=verdicts.curves,
        verdict_of=verdict_of,
        measurements=len(measurements.rows),
        data={"tables": tables, "raw": raw.entries},
        size=(WIDTH, HEIGHT),
        style=Markup(style),  # noqa: S704 (the page's own)
        script=Markup(script),  # noqa: S704 (the page's own)
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("lab.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["packed"] = _packed
    templates.tests["trend"] = lambda picture: isinstance(picture, Trend)
    return templates


def _labels(folders: list[RunFolder]) -> list[str]:
    """Name each run by where it ran; by its folder as well where that is not enough to tell them apart."""
    places = Counter(folder.place for folder in folders)
    return [folder.place if places[folder.place] == 1 else f"{folder.place}, {folder.name}" for folder in folders]


def _packed(data: Any) -> str:
    """Write data for the script: JSON, compressed, in letters that mean nothing to HTML."""
    # Without a time in its head, the same runs give the same page.
    return base64.b64encode(gzip.compress(json.dumps(data, ensure_ascii=False).encode(), mtime=0)).decode()


def _source(name: str) -> str:
    return Path(__file__).with_name("templates").joinpath(name).read_text()


def _hash(text: str) -> str:
    """Return what a page's policy allows a script or a style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
