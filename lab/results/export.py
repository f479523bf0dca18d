"""Export of a run for other tools: JSON Lines, CSV, JUnit XML, OpenMetrics text, and a trace of its requests."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import IO, Any

from lab.errors import LabError
from lab.output.text import cell
from lab.probes.layers.perfetto import trace
from lab.results.check_columns import stream
from lab.results.junit import write_junit
from lab.results.openmetrics import lines
from lab.results.reader import RunFolder

CHECKS, MEASUREMENTS = "checks", "measurements"
KINDS = (CHECKS, MEASUREMENTS)


def _jsonl(run: RunFolder, kinds: tuple[str, ...], file: IO[str]) -> None:
    if CHECKS in kinds:
        file.writelines(_line("check", run, asdict(check)) for check in stream(run.checks.path))
    if MEASUREMENTS in kinds:
        file.writelines(_line("measurement", run, json.loads(row.to_json())) for row in run.measurements)


def _line(kind: str, run: RunFolder, row: dict[str, Any]) -> str:
    return json.dumps({"kind": kind, "run": run.name} | row, ensure_ascii=False) + "\n"


def _csv(run: RunFolder, kinds: tuple[str, ...], file: IO[str]) -> None:
    if len(kinds) > 1:
        raise LabError(
            "the run has checks and measurements, but a CSV file holds one kind of rows: "
            "add --only checks or --only measurements"
        )
    rows = (asdict(check) for check in stream(run.checks.path)) if CHECKS in kinds else _samples(run)
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
        writer.writerow({name: cell(value) for name, value in row.items()})


def _samples(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Yield one row for each sample of the bench, and one row without a value for each tool that cannot run."""
    for row in run.measurements:
        names = {
            "figure": row.figure,
            "tool": row.tool,
            "quantity": row.quantity,
            "conditions": json.dumps(row.conditions),
            "unit": row.unit,
        }
        for number, value in enumerate(row.samples or [None]):
            yield names | {"repetition": number, "value": value, "refused": row.refused}


def _junit(run: RunFolder, kinds: tuple[str, ...], file: IO[str]) -> None:
    if CHECKS not in kinds:
        raise LabError("JUnit XML holds checks only: choose another format for measurements")
    write_junit(file, stream(run.checks.path))


def _openmetrics(run: RunFolder, kinds: tuple[str, ...], file: IO[str]) -> None:
    file.writelines(line + "\n" for line in lines(run, checks=CHECKS in kinds, measurements=MEASUREMENTS in kinds))


def _perfetto(run: RunFolder, _: tuple[str, ...], file: IO[str]) -> None:
    if not run.recordings:
        raise LabError(f"{run.path} has no recording, which a trace needs: lab demo makes one")
    json.dump(trace(run.requests()), file)


FORMATS: dict[str, Callable[[RunFolder, tuple[str, ...], IO[str]], None]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "junit": _junit,
    "openmetrics": _openmetrics,
    "perfetto": _perfetto,
}


def export(run: RunFolder, form: str, file: IO[str], only: str | None = None) -> None:
    """Write a run in a format of `FORMATS`. `only` is one of `KINDS`; None writes all kinds that the run has.

    Raises `LabError` if the run cannot be read, has no rows of that kind, or cannot be written in that format.
    """
    has = {CHECKS: len(run.checks.rows), MEASUREMENTS: len(run.measurements)}
    kinds = tuple(kind for kind in KINDS if has[kind] and only in {None, kind})
    if not kinds and form != "perfetto":
        raise LabError(f"{run.path} has no {only or 'checks and no measurements'}: choose another run")
    FORMATS[form](run, kinds, file)
