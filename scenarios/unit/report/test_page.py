"""The report as a file: its content, the notes on omitted rows, and the escaping of names."""

import base64
import gzip
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from markupsafe import escape
from support.made.run_folder import HOSTILE, checks, folder, measurements, stories

from lab.cli import main
from lab.report import page as report_page
from lab.report import verdicts
from lab.report.chart import bracket, cumulative, positions, series, share_scale, signed
from lab.report.figures import Bench
from lab.report.measured import Row
from lab.results.corpus import RIGHT_IF
from lab.results.measurement import Measurement
from lab.units import MS
from lab.verdict import Bracket, Judge

JUDGE = Judge("s", "states", "fentry:tcp_v4_rcv")
TOO_FAR = [JUDGE.duration("a", "q", Bracket.early(0, 9 * MS), 2 * MS).within(MS)]


def page(*runs, output=None):
    """Write the report of some runs; returns its text and the data for its script."""
    arguments = ["report", *map(str, runs), *(["-o", str(output)] if output else [])]
    assert main(arguments) == 0
    text = (output or runs[0] / "report.html").read_text()
    packed = re.search(r'id="data">([^<]*)<', text)[1]
    return text, json.loads(gzip.decompress(base64.b64decode(packed)))


def test_needs_nothing_else(tmp_path):
    """The page links only to the run's own files, and its policy forbids all requests."""
    text, _ = page(folder(tmp_path / "run", checks=checks(), measurements=measurements(), recorded=True))
    assert {found for found in re.findall(r'(?:href|src)="([^"#]*)', text) if found} == {"run.json"}
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_a_name_is_only_a_name(tmp_path):
    """Markup in the name of a process or a tool is escaped."""
    text, data = page(folder(tmp_path / "run", checks=checks(), measurements=measurements()))
    assert "<img" not in text
    assert text.count("<script") == 2
    rows = [json.loads(line) for entry in data["raw"].values() for _, line in entry["lines"]]
    assert sum(row.get("subject", "").startswith(HOSTILE) for row in rows) == 2


@pytest.mark.parametrize(
    ("what", "headline"),
    [
        ({"checks": checks(wrong=0)}, "All 1,280 numbers are consistent with the truth."),
        ({"checks": checks(wrong=1)}, "1 of 1,281 numbers is provably wrong."),
        ({"checks": checks(wrong=9)}, "9 of 1,289 numbers are provably wrong."),
        ({"checks": TOO_FAR}, "1 of 1 numbers is off by more than the tolerance."),
        (
            {"checks": [*checks(wrong=9), *TOO_FAR]},
            "9 of 1,290 numbers are provably wrong. 1 is off by more than the tolerance.",
        ),
        ({"measurements": measurements()}, "5 of 7 goals are reached."),
        ({"measurements": [row for row in measurements() if row.met]}, "All 5 goals are reached."),
        ({"measurements": [replace(row, goal=None) for row in measurements()]}, "No number was judged in this run."),
        ({}, "No number was judged in this run."),
    ],
)
def test_the_verdict_comes_first(tmp_path, what, headline):
    """The headline counts the failed checks; without checks it counts the goals; without either it says so."""
    text, _ = page(folder(tmp_path / "run", **what))
    assert re.sub(r"<[^>]*>|[✓✗]", "", re.search("<h1.*?</h1>", text)[0]).strip() == headline


def test_the_verdict_has_the_widths(tmp_path):
    """The widths of the brackets stand beside the headline, beside each probe and each quantity, and in the table."""
    rows = [JUDGE.duration("a", "first SYN at", Bracket.early(0, width), 0) for width in (43_000, 43_000, 200 * MS)]
    rows += [JUDGE.equal("a", "port", 80, 80)]
    text, data = page(folder(tmp_path / "run", checks=rows))
    times, exact = re.findall("<li><b>(.*?)</li>", text[: text.index("<main>")])
    assert times == (
        "43.000 us</b>Half of the 3 times had to lie in an interval this narrow.<small>nine tenths: 200.000 ms</small>"
    )
    assert exact.startswith("1</b>value had to be equal to the truth.")
    probe, quantity, port = re.findall(r"<tr(?: hidden)?>\s*<th scope=\"row\".*?</tr>", text, re.DOTALL)[:3]
    for line, cells in (
        (probe, ["43.000 us", "200.000 ms", "1"]),
        (quantity, ["43.000 us", "200.000 ms", ""]),
        (port, ["-", "-", "1"]),
    ):
        assert re.findall(r'<td class="number">([^<]*)<', line)[:3] == cells
    heads = [column["name"] for column in data["tables"]["checks"]["columns"]]
    lines = {cells[3]: dict(zip(heads, cells, strict=True)) for _, _, cells in data["tables"]["checks"]["rows"]}
    assert (lines["first SYN at"]["width p50"], lines["port"]["width p90"]) == ([43_000, "43.000 us"], [None, "-"])


def test_what_was_not_judged(tmp_path):
    """The page opens with what the run left out, the probes without a check, and the events that are missing."""
    rows = [replace(check, lost=7) for check in checks(wrong=0)]
    left_out = [
        {"what": "2 scenarios", "why": f"needs {HOSTILE}"},
        {"what": "the probe layers", "why": "no sk_data_ready"},
    ]
    text, _ = page(folder(tmp_path / "said", checks=rows, not_judged=left_out))
    gaps = re.search(r'<div class="gaps">.*?</div>', text, re.DOTALL)[0]
    assert text.index("</h1>") < text.index(gaps) < text.index("<main>")
    found = [re.sub("<.*?>", "", item) for item in re.findall("<li>(.*?)</li>", gaps)]
    assert found[0].startswith("2 scenarios: needs &lt;/script")
    assert found[1] == "the probe layers: no sk_data_ready"
    assert found[2] == "the probes analyse, drops, flows, retransmits: this run has no check of its numbers"
    assert "up to 7 events of states: missing from a recording" in found
    assert "<summary>3 more</summary>" in gaps
    unsaid, _ = page(folder(tmp_path / "unsaid", checks=rows))
    assert 'scenarios that were skipped: <span class="muted">this run does not say which' in unsaid


def test_nothing_was_left_out(tmp_path, monkeypatch):
    """A run that has judged every probe, and says that it skipped nothing."""
    monkeypatch.setattr("lab.report.page.every_probe", lambda: ["states"])
    text, _ = page(folder(tmp_path / "run", checks=[JUDGE.equal("a", "q", 1, 1)], not_judged=[]))
    assert "Nothing that the run knows of" in text


def test_a_wrong_number_opens_to_its_story(tmp_path):
    """The interval, the value and the distance; then both timelines, the wire's frames, and the probe's own events."""
    rows = [JUDGE.duration("a", "first SYN at", Bracket.early(9_000_000, 9_000_600), 9_900_000)]
    text, _ = page(folder(tmp_path / "run", checks=rows, stories=stories(rows)))
    story = re.search(r'<details class="story" open>.*?</details>', text, re.DOTALL)[0]
    summary = re.sub(r"<.*?>|\s+", " ", re.search("<summary>.*</summary>", story, re.DOTALL)[0]).split()
    assert " ".join(summary) == "states first SYN at a 900.000 us 899.400 us too large"
    assert re.findall("<th [^>]*>(.*?)</th>", story) == ["ms", "client", "wire", "server"]
    lines = [re.sub("<.*?>", "", line) for line in re.findall("<tr.*?</tr>", story)]
    assert lines[1:] == [
        "0.000the truth is not earlier",
        "0.000application connect() called",
        "0.001frame SYN, seq 1, to the server: lost",
        "0.001the truth is not later",
        "0.001lab states egress, SYN, 0 bytes",
        f"0.001application {escape(HOSTILE)}",
        "0.900measured: first SYN at",
    ]
    assert "1,234 timestamps further away are left out." in story


def test_a_wrong_number_without_a_story(tmp_path):
    """The page says that the run kept none; those with a story come first."""
    rows = checks(wrong=3)
    text, _ = page(folder(tmp_path / "run", checks=rows, stories=stories(rows)[2:]))
    told = re.findall(r'<details class="story".*?</details>', text, re.DOTALL)
    assert ["The run kept no timestamps" in story for story in told] == [False, True, True]


def test_stories_of_another_form(tmp_path, capsys):
    """The error names the file and says what to do; exit status 2."""
    run = folder(tmp_path / "run", checks=checks())
    (run / "stories.jsonl").write_text('{"check": 1}\n')
    assert main(["report", str(run)]) == 2
    assert "stories.jsonl cannot be read, or is not of this version" in capsys.readouterr().err


def test_runs_side_by_side_have_their_widths(tmp_path):
    """The same number of right values in two runs, one of them with a wider bracket."""
    runs = [
        folder(tmp_path / name, checks=[JUDGE.duration("a", "first SYN at", Bracket.early(0, width), 0)])
        for name, width in (("sharp", 43_000), ("blunt", 200 * MS))
    ]
    text, _ = page(*runs, output=tmp_path / "both.html")
    matrix = re.search(r'<section id="matrix">.*?</section>', text, re.DOTALL)[0]
    assert re.findall("width of times: p50 ([^,]*),", matrix) == ["43.000 us", "200.000 ms"] * 2


def test_the_environment_has_no_empty_entry(tmp_path):
    """A probe without an attach point is not in the list; an unknown version is `-`."""
    rows = [Judge("s", probe, place).equal("a", "q", 1, 1) for probe, place in (("rtt", ""), ("states", "tp:x"))]
    text, _ = page(folder(tmp_path / "run", checks=rows))
    environment = re.search(r'<section id="environment-0">.*?</section>', text, re.DOTALL)[0]
    assert re.findall(r"<dt>(\w+) attached to</dt><dd>([^<]*)</dd>", environment) == [("states", "tp:x")]
    assert "None" not in environment


def test_missed_goals_have_distance_and_reason(tmp_path):
    """A missed goal has the distance, in its unit and in percent, and the note of the bench."""
    text, _ = page(folder(tmp_path / "run", measurements=measurements()))
    assert re.search(r"missed by \d+ ns, \d+%: each segment is a sample", text)
    assert "Goals: 5 of 7 reached" in text


def test_the_corpus_is_explained(tmp_path):
    """Each row of the corpus has the condition under which a tool is right; a row of another version has none."""
    rows = [Measurement("corpus", "lab rtt", row, "verdict", [1.0]) for row in ("O1", "X2", "Z9")]
    text, _ = page(folder(tmp_path / "run", measurements=rows))
    found = dict(re.findall(r"<dt>(\w\d)</dt><dd>([^<]*)</dd>", text))
    assert found == {row: RIGHT_IF[row] for row in ("O1", "X2")}


def test_a_figure_without_values(tmp_path):
    """If no tool can run, the page has no picture and lists the reasons."""
    refused = [Measurement("instructions", "lab states", "per run", "instructions", refused="time is real here")]
    text, _ = page(folder(tmp_path / "run", measurements=refused))
    listed = re.search("Not measured</h2>.*?</section>", text, re.DOTALL)[0]
    assert re.findall(r">([^<\n]+)</t[hd]>", listed)[-3:] == ["lab states", "time is real here", "instructions"]
    assert "Cost of the tools" not in text


def test_shares_of_right_values():
    """The table of errors has percentiles for each tool, and the mean shares `right` and `told`."""
    rows = [
        Measurement("accuracy", tool, f"{what} of states", unit, values, {"delay_ms": delay})
        for delay in (0, 20)
        for tool, right in (("lab states", 1.0), ("bcc tcpstates", 0.5 + delay / 100))
        for what, unit, values in (
            ("error", "ns", [0.0, 5e6]),
            ("right", "fraction", [right]),
            ("told", "fraction", [1.0]),
        )
    ]
    (errors,) = Bench([Row(row, "raw") for row in rows], {"lab states": 0, "bcc tcpstates": 1}).errors
    assert errors.columns == ["p50", "p99", "max", "right", "told"]
    assert {tool: (cells["told"][1], cells["right"][1]) for tool, _, cells, _ in errors.tools} == {
        "lab states": ("100 %", "100 %"),
        "bcc tcpstates": ("100 %", "60 %"),
    }


def test_every_wrong_check_is_kept(tmp_path, monkeypatch):
    """If not all raw rows fit, the page keeps the wrong ones and counts the lines without a raw row."""
    monkeypatch.setattr(verdicts, "MOST_ROWS", 70)
    rows = checks(wrong=60)
    _, data = page(folder(tmp_path / "run", checks=rows))
    kept = [json.loads(line) for entry in data["raw"].values() for _, line in entry["lines"]]
    assert len(kept) == 70
    assert [row for row in kept if row["verdict"] == "outside"] == [
        json.loads(row.to_json())
        for row in sorted((row for row in rows if not row.passed), key=lambda row: row.error is None)
    ]
    text = (tmp_path / "run" / "report.html").read_text()
    assert "lines of the table have no raw row here" in text


def test_raw_rows_are_those_of_the_file(tmp_path):
    """Each raw row equals the line of its file with its number."""
    run = folder(tmp_path / "run", checks=checks(), measurements=measurements())
    _, data = page(run)
    found = [(entry["file"], *line) for entry in data["raw"].values() for line in entry["lines"]]
    assert {file for file, *_ in found} == {"checks.jsonl", "bench.jsonl"}
    for file, number, line in found:
        whole = (run / file).read_text().splitlines()[number - 1]
        assert line == whole or whole.startswith(line.partition(" ... ")[0])


def test_links_lead_from_where_the_page_is(tmp_path):
    """A page in another folder links to the files of the runs; two runs of the same place are labelled by folder."""
    runs = [folder(tmp_path / "results" / name, checks=checks(seed)) for name, seed in (("a b", 1), ("c", 2))]
    (tmp_path / "pages").mkdir()
    _, data = page(*runs, output=tmp_path / "pages" / "page.html")
    assert {entry["link"] for entry in data["raw"].values()} == {
        f"../results/{name}/checks.jsonl" for name in ("a%20b", "c")
    }
    labels = {cells[0] for _, _, cells in data["tables"]["checks"]["rows"]}
    assert labels == {"6.18.44, real clock, a b", "6.18.44, real clock, c"}


def test_a_recording_that_cannot_be_read(tmp_path):
    """With a damaged recording, the page has the reason, and the other parts."""
    run = folder(tmp_path / "run", checks=checks())
    (run / "recording-1.npz").write_bytes(b"no recording")
    text, _ = page(run)
    assert "The recordings cannot be shown" in text
    assert "is not a recording of this lab" in text


def test_the_same_runs_give_the_same_page(tmp_path):
    """Two reports of the same run are equal."""
    run = folder(tmp_path / "run", checks=checks(), measurements=measurements(), recorded=True)
    assert page(run) == page(run)


def test_a_page_that_cannot_be_written(tmp_path, capsys):
    """The error says what to do; exit status 2."""
    assert main(["report", str(folder(tmp_path / "run")), "-o", str(tmp_path / "missing" / "page.html")]) == 2
    assert "cannot be written (No such file or directory): choose another file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("low", "high", "measured", "places"),
    [(0, 100, 50, (10, 90, 50)), (0, 100, 200, (10, 50, 90)), (100, 100, 0, (90, 90, 10)), (5, 5, 5, (50, 50, 50))],
)
def test_a_bracket_on_its_strip(low, high, measured, places):
    """Bracket and value have the same scale, even if they are far apart; values that are not numbers have no strip."""
    assert bracket(JUDGE.duration("a", "q", Bracket.early(low, high), measured)) == places
    assert bracket(JUDGE.equal("a", "q", "one", "other")) is None


def test_curves_rise_from_0_to_1():
    """A cumulative distribution rises from 0 to 1; a name without errors has no curve."""
    plot = cumulative({"a": np.array([-10.0, 0, 1000]), "b": np.array([])}, {"a": 0, "b": 1})
    (line,) = plot.lines
    points = [tuple(map(float, point.split())) for point in line.path[1:].split("L")]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert (points[0][1], points[-1][1]) == (plot.bottom, plot.top)
    assert points[0][0] == plot.left  # errors below 1 ns are at the left end
    assert cumulative({"b": np.array([])}, {"b": 0}) is None


def test_histograms_count_everything():
    """Each error is in one bar, and each place in the bracket too; values outside have bars of their own."""
    errors = np.array([-5e12, -2e3, -0.4, 0, 3.0, 3.1, 9e99])
    plot = signed(errors)
    assert sum(int(bar.text.split()[0].replace(",", "")) for bar in plot.bars) == len(errors)
    assert signed(np.array([])) is None
    strip = positions(np.array([0, 0.5, 1, -3, 7]), 1, 1)
    assert [int(bar.text.split()[0]) for bar in strip if not bar.bad] == [1, 1, 1]
    assert [bar.text for bar in strip if bar.bad] == ["1 below the bracket", "1 above the bracket"]


def test_scales_hold_everything():
    """Every value has a place: on a scale from 0, on a logarithmic one, and on the scale of a single value."""
    for values in ([0.9, 0.95], [88, 10_000], [0.0], [-3.0, 5.0], [7.0]):
        scale = share_scale(values)
        places = [scale.at(value) for value in sorted(values)]
        assert places == sorted(places)
        assert all(0 <= place <= 100 for place in places)
    plot = series({"a": [(10, 90.0), (1000, 9000.0)]}, {"a": 0})
    assert [tick.text for tick in plot.y] == ["10", "100", "1,000", "10 k"]


def test_the_offer_of_a_report_names_its_file(tmp_path):
    """`lab gate` finds the results of the bench in a guest by what it prints; the name of a folder may have any character."""
    (place := tmp_path / "a folder, 100 % µ").mkdir()
    (report := place / "report.html").write_text("")
    assert report_page.offered(f"36 goals\n{report_page.offer(report)}\n") == report
    assert report_page.offered("36 goals\n") is None
