"""Exported formats: an independent reader of each finds the content of the run."""

import csv
import io
import json
import os
from collections import Counter
from xml.etree import ElementTree as ET

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from support.made.run_folder import HOSTILE, checks, folder, measurements

from lab.cli import main
from lab.output.text import cell, printable
from lab.verdict import Bracket, Judge

WRONG = 3


@pytest.fixture
def run(tmp_path):
    """Return a run with checks, measurements and a recording, and with names that are hard to escape."""
    named = Judge("s", "states", "fentry:tcp_v4_rcv").equal('a\n\\"b\x1b[31m\ufffe', "owner, quoted", "x", "x")
    return folder(tmp_path / "run", checks=[*checks(wrong=WRONG), named], measurements=measurements(), recorded=True)


def exported(capsys, run, *arguments):
    """Return the output of `lab export`."""
    capsys.readouterr()
    assert main(["export", str(run), *arguments]) == 0
    return capsys.readouterr().out


def test_json_lines(run, capsys):
    """All checks and measurements, as in the run's own files, with their kind and run."""
    printed = [json.loads(line) for line in exported(capsys, run, "--format", "jsonl").splitlines()]
    for kind, file in (("check", "checks.jsonl"), ("measurement", "bench.jsonl")):
        rows = [json.loads(line) for line in (run / file).read_text().splitlines()]
        assert [one for one in printed if one["kind"] == kind] == [{"kind": kind, "run": "run"} | row for row in rows]


def test_csv(run, capsys):
    """Rows of one kind: checks, or samples of the bench."""
    rows = list(csv.DictReader(io.StringIO(exported(capsys, run, "--format", "csv", "--only", "checks"), newline="")))
    lines = [json.loads(line) for line in (run / "checks.jsonl").read_text().splitlines()]
    assert [{name: "" if value is None else str(cell(value)) for name, value in line.items()} for line in lines] == rows
    samples = list(csv.DictReader(io.StringIO(exported(capsys, run, "--format", "csv", "--only", "measurements"))))
    assert sum(bool(row["value"]) for row in samples) == sum(len(row.samples) for row in measurements())
    assert {row["tool"] for row in samples if row["refused"]} == {"bpftrace", "lab flows"}
    assert main(["export", str(run), "--format", "csv"]) == 2
    assert "add --only checks or --only measurements" in capsys.readouterr().err


def test_junit(run, capsys):
    """A test case for each quantity, with its failures; characters that XML forbids are escaped."""
    suite = ET.fromstring(exported(capsys, run, "--format", "junit"))  # noqa: S314 (our own)
    cases = suite.findall("testcase")
    lines = [json.loads(line) for line in (run / "checks.jsonl").read_text().splitlines()]
    assert int(suite.get("tests")) == len(cases) == len({(it["scenario"], it["probe"], it["quantity"]) for it in lines})
    failures = [failure.get("message") for failure in suite.findall("testcase/failure")]
    assert int(suite.get("failures")) == len(failures) == 2
    assert sum(int(message.split()[0]) for message in failures) == WRONG
    assert cases[-1].get("name") == "owner, quoted"
    assert any(printable(HOSTILE) in message for message in failures)
    assert main(["export", str(run), "--format", "junit", "--only", "measurements"]) == 2


def test_junit_of_many_checks_is_small(tmp_path, capsys):
    """Its size depends on the number of quantities, not on that of checks, right or wrong."""
    sizes = []
    for count in (100, 10_000):
        judge = Judge("s", "rtt", "tc:ingress")
        rows = [judge.count(f"flow {number}", "right", Bracket.exactly(1), 1) for number in range(count)]
        rows += [judge.count("flow", "wrong", Bracket.exactly(1), 2) for _ in range(count)]
        text = exported(capsys, folder(tmp_path / str(count), checks=rows), "--format", "junit")
        sizes.append(len(text.replace(str(count), "")))
        assert text.count("<testcase ") == 2
    assert sizes[0] == sizes[1] < 1_000


def test_openmetrics(run, capsys):
    """The parser of Prometheus finds the counts, the quantiles and the medians."""
    with (run / "checks.jsonl").open("a") as file:  # another unit of a quantity of the same name
        file.write(Judge("s", "states", "p").equal("f", "first SYN at", "x", "x").to_json() + "\n")
    families = {
        family.name: family
        for family in text_string_to_metric_families(exported(capsys, run, "--format", "openmetrics"))
    }
    verdicts = Counter()
    for sample in families["lab_checks"].samples:
        verdicts[sample.labels["verdict"]] += sample.value
    assert verdicts == {
        "far": 0,
        "outside": WRONG,
        "inside": len((run / "checks.jsonl").read_text().splitlines()) - WRONG,
    }
    errors = families["lab_error_seconds"]
    assert (errors.type, errors.unit) == ("summary", "seconds")
    largest = {
        sample.labels["quantity"]: sample.value
        for sample in errors.samples
        if sample.labels.get("quantile") == "1.0" and sample.labels["scenario"] == "test_lost_syn[4]"
    }
    assert largest == {"first SYN to first FIN": pytest.approx(1.0001)}
    widths = {
        sample.value
        for sample in families["lab_bracket_width_seconds"].samples
        if sample.labels["quantity"] == "first SYN to first FIN" and sample.labels["scenario"] == "test_lost_syn[4]"
    }
    assert widths == {900e-6}
    assert len(families["lab_median"].samples) == sum(bool(row.samples) for row in measurements())
    assert [sample.labels["reason"] for sample in families["lab_refused"].samples] == [
        row.refused for row in measurements() if row.refused
    ]
    assert families["lab_run"].samples[0].labels["kernel"] == "6.18.44"


def test_perfetto(run, tmp_path, capsys):
    """The trace has the requests of the recording; without a recording, the error names the command that makes one."""
    trace = json.loads(exported(capsys, run, "--format", "perfetto"))
    assert sum(event["ph"] == "X" for event in trace["traceEvents"]) > 50
    assert main(["export", str(folder(tmp_path / "other", checks=checks())), "--format", "perfetto"]) == 2
    assert "lab demo makes one" in capsys.readouterr().err


def test_to_a_file(run, tmp_path, capsys):
    """The file is complete or absent: after an error there is no partial file, and an old file is unchanged."""
    target = tmp_path / "out.csv"
    assert exported(capsys, run, "--format", "csv", "--only", "checks", "-o", str(target)) == ""
    assert target.read_bytes().count(b"inside") > 1000
    before = target.read_bytes()
    assert main(["export", str(run), "--format", "csv", "-o", str(target)]) == 2
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "run"]
    assert main(["export", str(run), "--format", "jsonl", "-o", str(tmp_path / "missing" / "file")]) == 2
    assert "cannot be written (No such file or directory): choose another file" in capsys.readouterr().err


def test_to_a_pipe_or_a_link(tmp_path):
    """A pipe is written to and not replaced; a symbolic link is replaced and not followed."""
    run = folder(tmp_path / "run", checks=checks(count=1))
    pipe, target, link = tmp_path / "pipe", tmp_path / "file", tmp_path / "link"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert main(["export", str(run), "--format", "jsonl", "-o", str(pipe)]) == 0
    written = os.read(reader, 1 << 16)
    os.close(reader)
    assert pipe.is_fifo()
    link.symlink_to(target)
    assert main(["export", str(run), "--format", "jsonl", "-o", str(link)]) == 0
    assert not link.is_symlink()
    assert link.read_bytes() == written
    assert not target.exists()
    assert written.count(b"\n") == len((run / "checks.jsonl").read_text().splitlines())


def test_nothing_to_export(tmp_path, capsys):
    """A run without rows of the kind gives an error."""
    path = folder(tmp_path / "run")
    assert main(["export", str(path), "--format", "jsonl"]) == 2
    assert "has no checks and no measurements" in capsys.readouterr().err
    assert main(["export", str(path), "--format", "jsonl", "--only", "measurements"]) == 2
    assert "has no measurements" in capsys.readouterr().err
