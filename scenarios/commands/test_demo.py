"""`lab demo` as a user runs it: two screens, all details, a wrong number, files without a reader, and the end by Ctrl-C."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import pytest
from support.processes import end, lab_command, started

from lab import probes
from lab.cli import main
from lab.probes.duration.measure import lifetimes
from lab.units import MS

LINES, COLUMNS = 48, 80
FILES = {"run.json", "checks.jsonl", "junit.xml", "report.html"} | {f"recording-{number}.npz" for number in (1, 2, 3)}


@pytest.fixture
def environment(tmp_path):
    """Return an environment in which runs have their own folder."""
    return os.environ | {"LAB_RESULTS": str(tmp_path)}


def screens(output):
    """Return the lines of an output, which must fit two screens; only the report's address may be longer."""
    lines = output.splitlines()
    assert len(lines) <= LINES
    assert [line for line in lines if len(line) > COLUMNS and "file://" not in line] == []
    return lines


def test_two_screens(environment, tmp_path):
    """First the way of a request, then a line for each probe, the number of checks with their widths, and the report."""
    done = lab_command("demo", env=environment)
    assert done.returncode == 0, done.stderr
    head, request, *lines = screens(done.stdout)
    assert head == "The server waits 120 ms before it replies. Its request, layer by layer:"
    assert re.search(r" asks 192\.0\.2\.2:9999: \d+ bytes, \d+ back, in ", request)
    application = next(line for line in lines if "application" in line)
    assert float(application.split()[3]) > 120_000  # microseconds
    table = lines.index("probe        checks  wrong  exact   times p50         p90  counts p50  p90")
    rows = [line.split() for line in lines[table + 2 :][: len(probes.here())]]
    assert [row[0] for row in rows] == probes.here()
    checks = (tmp_path / "latest" / "checks.jsonl").read_bytes().count(b"\n")
    assert sum(int(row[1]) for row in rows) == checks
    text = " ".join(lines)
    assert f"{checks} checks: every measured value is consistent with the truth. Width of the brackets: of " in text
    (report,) = [urlparse(line.strip()).path for line in lines if "file://" in line]
    assert "numbers are consistent with the truth." in Path(report).read_text(encoding="utf-8")


def test_everything(environment, tmp_path):
    """With --all: what each tool printed of each conversation, each check, and all timestamps of the first request."""
    done = lab_command("demo", "--all", env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.removeprefix("lab ") for line in lines if line.startswith("lab ")] == 3 * probes.here()
    checks = (tmp_path / "latest" / "checks.jsonl").read_bytes().count(b"\n")
    assert sum(line.endswith("  inside") for line in lines) == checks
    assert sum("send() called" in line for line in lines) >= 2
    assert "The server waits 120 ms before it replies. Its request, layer by layer:" in lines[-LINES:]


def test_a_wrong_number(monkeypatch, tmp_path, capsys):
    """A probe that is 10 ms late: exit status 1, the first wrong numbers on the same two screens, their stories in the report."""
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    monkeypatch.setattr("lab.probes.duration.judge.lifetimes", late(lifetimes))
    assert main(["demo"]) == 1
    lines = screens(capsys.readouterr().out)
    wrong = next(number for number, line in enumerate(lines) if line.startswith("WRONG: "))
    assert re.fullmatch(r"WRONG: \d+ of \d+ numbers, the first 2:", lines[wrong])
    assert lines[wrong + 1].startswith("- duration: first ")
    report = (tmp_path / "latest" / "report.html").read_text()
    assert "numbers are provably wrong." in report
    told = re.search(r'<details class="story" open>.*?</details>', report, re.DOTALL)[0]
    for what in ("connect() called", "close() over", "lab duration</small> egress, SYN, 0 bytes"):
        assert what in told


def late(measure):
    """Return a measure of durations that says of every end that it was 10 ms later."""

    def changed(*args):
        rows = measure(*args).copy()
        for name in ("duration_ns", "end_ns"):
            rows[name] += 10 * MS
        return rows

    return changed


def test_files_without_a_reader(environment, tmp_path):
    """The reader of the output goes away, as `head` does: the run is complete."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "lab", "demo"], stdout=write, stderr=subprocess.PIPE, env=environment, check=False
    )
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "latest").iterdir()} >= FILES
    about = json.loads((tmp_path / "latest" / "run.json").read_text())
    assert about["checks"]["inside"] == (tmp_path / "latest" / "checks.jsonl").read_bytes().count(b"\n")


def test_an_interrupted_demo_is_not_the_latest(environment, tmp_path):
    """Ctrl-C ends it with status 130, and `latest` does not point at it."""
    with started(sys.executable, "-m", "lab", "demo", ready="building the network", env=environment) as process:
        assert end(process) == 130
    assert [path.name for path in tmp_path.iterdir() if path.name == "latest"] == []
    assert len(list(tmp_path.iterdir())) == 1
