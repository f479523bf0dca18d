"""`lab demo` as a user runs it: its summary, its files without a reader, and its end by Ctrl-C."""

import json
import os
import re
import subprocess
import sys

import pytest
from support.processes import end, lab_command, started

FILES = {"run.json", "checks.jsonl", "junit.xml"} | {f"recording-{number}.npz" for number in (1, 2, 3)}


@pytest.fixture
def environment(tmp_path):
    """Return an environment in which runs have their own folder."""
    return os.environ | {"LAB_RESULTS": str(tmp_path)}


def test_the_summary_says_how_sharp(environment, tmp_path):
    """After the details: a line for each probe, and one sentence with the number of checks and the widths."""
    done = lab_command("demo", env=environment)
    assert done.returncode == 0, done.stderr
    checks = (tmp_path / "latest" / "checks.jsonl").read_bytes().count(b"\n")
    sentence = rf"^{checks} checks: every measured value is consistent with the truth. Width of the brackets: of \d+ times p50 \d"
    assert re.search(sentence, done.stdout, re.MULTILINE)
    heads = "probe checks wrong times width p50 width p90 counts width p50 width p90 exact"
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    table = lines[lines.index(heads) + 2 :][: len({line.split()[1] for line in lines if line.startswith("lab ")})]
    assert sum(int(line.split()[1]) for line in table if line) == checks


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
