"""Writing the results of a run to `results/<run>/`: run.json, checks.jsonl, stories.jsonl, bench.jsonl and junit.xml.

`results/latest` links to the newest run that has ended by itself.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

import msgspec

from lab import clock
from lab.clock import CLOCK
from lab.ebpf import attach, compiler
from lab.errors import LabError
from lab.output.file import point, replacing, require_unchangeable
from lab.paths import CHECKOUT, RESULTS, results
from lab.results import measurement
from lab.results.check_columns import FILE, CheckColumns, stream
from lab.results.junit import write_junit
from lab.results.measurement import Measurement
from lab.verdict import Check

SCHEMA = 1
RUN = "run.json"
LATEST = "latest"


def parent() -> Path:
    """Return the folder of all runs (`lab.paths.results`)."""
    return results()


def prepared(folder: Path) -> Path:
    """Create the folder of all runs and return it.

    Raises `LabError` if an installed lab chose it, in the current folder, and other users could replace it by a link.
    """
    chosen_here = CHECKOUT is None and not os.environ.get(RESULTS)
    if chosen_here:
        require_unchangeable(folder.parent, f"set {RESULTS} to another folder")
    folder.mkdir(parents=True, exist_ok=True)
    if chosen_here:
        require_unchangeable(folder, f"set {RESULTS} to another folder")
    return folder


class Results:
    """The folder of a run. Checks are appended line by line, so a killed run keeps every complete line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path | None = None) -> Self:
        """Create a folder, by default one named by the time, and write the environment to run.json.

        Raises `LabError` if the folder cannot be created.
        """
        started = datetime.now(UTC)
        results = cls(path or parent() / f"{started:%Y%m%dT%H%M%S}-{os.getpid()}")
        with results._errors():
            prepared(results.path.parent)
            results.path.mkdir()
        results._write_run({"schema": SCHEMA, "started": started.isoformat(), "clock": CLOCK, **_lane(), **_machine()})
        with results._errors():
            results.path.joinpath(FILE).touch()
        return results

    def add(self, checks: Iterable[Check]) -> list[Check]:
        """Append checks and return them."""
        checks = list(checks)
        self.append(FILE, "".join(check.to_json() + "\n" for check in checks))
        return checks

    def note(self, **facts: object) -> None:
        """Add facts to run.json."""
        about = json.loads(self.path.joinpath(RUN).read_text(encoding="utf-8"))
        self._write_run(about | facts)

    def measured(self, row: Measurement) -> None:
        """Append a measurement of the bench."""
        self.append(measurement.FILE, row.to_json() + "\n")

    def checks(self) -> list[Check]:
        """Return all checks written so far."""
        return list(stream(self.path / FILE))

    def finish(self) -> CheckColumns:
        """Add attach points and verdict counts to run.json, point `latest` at the run, and return all checks."""
        columns = CheckColumns.read(self.path / FILE)
        inside, far = (int(columns.rows[name].sum()) for name in ("passed", "far"))
        self.note(
            attach_points={probe: places for probe, places in columns.attach_points.items() if places},
            checks={"inside": inside, "outside": len(columns.rows) - inside - far, "far": far},
        )
        with self._errors():
            point(self.path.with_name(LATEST), self.path.name)
        return columns

    def write_junit(self) -> None:
        """Write junit.xml from the checks, for a run outside pytest."""
        with self._errors(), self.path.joinpath("junit.xml").open("w", encoding="utf-8") as file:
            write_junit(file, stream(self.path / FILE))

    def _write_run(self, about: dict[str, object]) -> None:
        with replacing(self.path / RUN) as file:
            file.write(msgspec.json.format(msgspec.json.encode(about)).decode() + "\n")

    def append(self, name: str, lines: str) -> None:
        """Append lines to a file of the folder."""
        # A single write in append mode: the lines of parallel test processes are not interleaved.
        with self._errors(), self.path.joinpath(name).open("a", encoding="utf-8") as file:
            file.write(lines)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LabError(
                f"cannot write results to {self.path} ({error.strerror}): free some space, or set LAB_RESULTS to another folder"
            ) from error


def _lane() -> dict[str, object]:
    """Return the clock (real or virtual) and the attach mechanism (`best` unless one was forced)."""
    return {"time": clock.of_guest(), "attach": attach.forced() or attach.BEST}


def _machine() -> dict[str, object]:
    uname = os.uname()
    return {
        "kernel": {"release": uname.release, "version": uname.version},
        "machine": {"architecture": uname.machine, "cpus": os.cpu_count()},
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            "bcc": _bcc_version(),
            **{name: _version(name) for name in ("numpy", "pyroute2")},
        },
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # the code that needs the package reports it
        return None


def _bcc_version() -> str | None:
    try:
        return compiler.version()
    except LabError:  # as above
        return None


def commit() -> str | None:
    """Return the checkout's commit, with `+` when files differ from it; None outside a checkout."""
    if CHECKOUT is None:  # an installed lab may lie in the checkout of another project
        return None
    try:
        git = ["git", "-C", str(CHECKOUT), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        return subprocess.run(git, capture_output=True, encoding="utf-8", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
