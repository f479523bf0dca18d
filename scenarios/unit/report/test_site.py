"""The site as files: which judgements count, what changed, escaping, evidence for download, and folders that are not overwritten."""

import gzip
import json
import re
import tarfile
from html import unescape

import pytest
from support.made.judged_run import CHANGED, CLEAN, KERNEL, OTHER, finding, judged, judged_run, product
from support.made.run_folder import HOSTILE, folder, measurements

from lab.cli import main
from lab.judging import judgement
from lab.judging.finding import SEVERITY, Verdict
from lab.paths import CHECKOUT
from lab.report.evidence import MARKS
from lab.results.measurement import Measurement
from lab.results.reader import RunFolder

OLD, NEW = "2026-11-01T08:00:00", "2026-11-30T08:00:00"


def site(tmp_path, *runs, to="site"):
    """Write the site of some runs; returns its folder and its JSON."""
    assert main(["site", *map(str, runs), "-o", str(tmp_path / to)]) == 0
    return tmp_path / to, json.loads((tmp_path / to / "judgements.json").read_text())


def verdicts(found):
    """Return the verdicts of a site's JSON by tool and case."""
    return {
        (it["judgement"]["product"]["tool"], it["judgement"]["case"]): it["judgement"]["verdict"]
        for it in found["judgements"]
    }


def text_of(place, name="index.html", part=""):
    """Return the text of a page, or of one section, without its markup, style and script."""
    page = (place / name).read_text()
    page = re.search(rf'<section id="{part}".*?</section>', page, re.DOTALL)[0] if part else page
    page = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def error(capsys, *words):
    """Run a command that must fail with one sentence and exit status 2; returns the sentence."""
    assert main(list(map(str, words))) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("older", "newer", "expected"),
    [
        (OTHER, CLEAN, {"S1": "right"}),
        (CLEAN, CLEAN, {"S1": "right", "S2": "missing"}),
        (CHANGED, CHANGED, {"S1": "right"}),
        ("", "", {"S1": "right"}),
    ],
)
def test_a_line_is_of_one_revision(tmp_path, older, newer, expected):
    """The newest run of a product decides; an older one adds cases only if its revision is the same and names all files."""
    runs = [
        judged_run(tmp_path / "z", judged(product(), {"S1": "wrong", "S2": "missing"}, revision=older), started=OLD),
        judged_run(tmp_path / "a", judged(product(), {"S1": "right"}, revision=newer), started=NEW),
    ]
    for order in (runs, runs[::-1]):
        place, found = site(tmp_path, *order)
        assert verdicts(found) == {("tcpstates", case): verdict for case, verdict in expected.items()}
        assert {it["judgement"]["revision"] for it in found["judgements"]} == {newer}
        assert f"suite {newer[:12] or 'unknown'}{' with changed files' * newer.endswith('+')}" in text_of(place)


def test_products_differ_by_version_kernel_and_attach_point(tmp_path):
    """Each has a line and a page of its own, each kernel a table, each line its own revision."""
    products = [
        product(),
        product(version="2.0"),
        product(kernel="5.10.0"),
        product(attach="kprobe:tcp_set_state"),
        product(tool="tcplife"),
    ]
    old = judged_run(tmp_path / "old", *(judged(it, {"S1": "right"}, revision=OTHER) for it in products), started=OLD)
    new = judged_run(tmp_path / "new", judged(products[1], {"S1": "wrong"}), started=NEW)
    place, found = site(tmp_path, old, new)
    assert len({it["page"] for it in found["judgements"]}) == len(list(place.glob("tool-*.html"))) == 5
    page = (place / "index.html").read_text()
    tables = re.findall(r'<table class="verdicts">.*?</table>', page, re.DOTALL)
    assert sorted(it.count('<tr data-kinds="') for it in tables) == [1, 4]
    assert "2026-11-30 · suite aaaaaaaaaaaa" in page
    assert page.count("2026-11-01 · suite bbbbbbbbbbbb") == 4
    for kernel in (KERNEL, "5.10.0"):
        assert f"Linux {kernel}</h2>" in page


def test_every_verdict_is_shown(tmp_path):
    """In words, not by its colour alone, in the table, in the list of verdicts, and on the tool's page."""
    found = {f"C{number}": verdict for number, verdict in enumerate(Verdict)}
    assert set(MARKS) == set(SEVERITY)
    place, _ = site(tmp_path, judged_run(tmp_path / "run", judged(product(), found)))
    (page,) = place.glob("tool-*.html")
    for case, verdict in found.items():
        assert f"{case}: {MARKS[verdict].sign} {verdict}" in text_of(place, page.name, f"case-{case}")
        assert f"{MARKS[verdict].sign} {verdict}" in text_of(place, part="kernel-1")
        assert MARKS[verdict].text in text_of(place, part="verdicts")


def test_evidence_of_a_verdict(tmp_path):
    """Definition, interval of the truth, value, distance, how the truth is known, the tool's rows, and the records of both sides."""
    parts = judged(product(), {"D3": "wrong"}, kinds=("duration",), output="all that it printed", log="the stamps")
    place, _ = site(tmp_path, judged_run(tmp_path / "run", parts))
    (page,) = place.glob("tool-*.html")
    shown = text_of(place, page.name, "case-D3")
    for words in (
        "from syn_seen to first_end_seen",
        "time in SYN_SENT 192.0.2.1:40000 -> 192.0.2.2:9999",
        "20.000 ms .. 21.000 ms 22.000 ms 1.000 ms",
        "The truth is known by the timestamps around the calls.",
        "SYN_SENT -> ESTABLISHED 22.000",
    ):
        assert words in shown
    assert "first_end_seen : the first FIN or RST, of whichever side" in text_of(place, page.name, "definition")
    record = text_of(place, page.name, "record-1")
    assert "all that it printed" in record
    assert "the stamps" in record


def test_numbers_that_no_float_can_hold(tmp_path):
    """An absurd number in a result is shown as it is."""
    huge = 10**400
    mine = judged(product(), {"S1": "wrong"}, findings=[finding(Verdict.WRONG, told=huge, distance=huge)])
    place, _ = site(tmp_path, judged_run(tmp_path / "run", mine))
    (page,) = place.glob("tool-*.html")
    assert f"{huge} ns" in text_of(place, page.name)


def test_long_output_is_cut_in_the_page_only(tmp_path):
    """The page has its first 200,000 characters and says so; the evidence for download is complete, and compressed if it is large."""
    output = "".join(f"row {number}\n" for number in range(200_000))
    run = judged_run(tmp_path / "run", judged(product(), {"S1": "right"}, output=output))
    place, found = site(tmp_path, run)
    (page,) = place.glob("tool-*.html")
    assert page.stat().st_size < 300_000
    assert "The first 200,000 characters." in text_of(place, page.name)
    name = found["judgements"][0]["judgement"]["evidence"]
    assert name.endswith(".json.gz")
    assert gzip.decompress((place / name).read_bytes()) == (run / "evidence" / "0.json").read_bytes()


def test_the_archive_is_a_run(tmp_path):
    """It holds the judgements and the evidence of one tool, for `lab judge --replay`."""
    parts = [judged(product(tool=tool), {"S1": "wrong", "S2": "right"}) for tool in ("tcpstates", "tcplife")]
    place, _ = site(tmp_path, judged_run(tmp_path / "run", *parts))
    (archive,) = place.glob("replay-tcplife-*.tar.gz")
    with tarfile.open(archive) as tar:
        for member in tar:
            path = tmp_path / "replay" / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())
    (unpacked,) = (tmp_path / "replay").iterdir()
    run = RunFolder.open(unpacked)
    kept = judgement.read(run.path)
    assert [(it.product.tool, it.case, it.verdict) for it in kept] == [
        ("tcplife", "S1", "wrong"),
        ("tcplife", "S2", "right"),
    ]
    assert all(judgement.read_evidence(run.path, it.evidence).product == it.product for it in kept)
    assert main(["judge", "--replay", str(unpacked), "--fail-on", "never"]) == 0


def test_changed_verdicts(tmp_path):
    """They are listed with both verdicts, those that became graver first; a new version is compared with the one that it replaces."""
    first = judged_run(
        tmp_path / "first",
        judged(product(), {"S1": "right", "S2": "wrong", "S3": "right", "S9": "right"}),
        judged(product(tool="tcplife"), {"D3": "right"}),
        started=OLD,
    )
    second = judged_run(
        tmp_path / "second",
        judged(product(), {"S1": "right", "S2": "right", "S3": "missing", "S4": "wrong"}),
        judged(product(tool="tcplife", version="2.0"), {"D3": "crashed"}),
        started=NEW,
    )
    place, found = site(tmp_path, first)
    assert found["changes"] is None
    assert "There was no earlier site" in text_of(place, part="changes")
    place, found = site(tmp_path, second)
    changes = found["changes"]
    assert {(it["tool"], it["case"], it["before"], it["after"]) for it in changes["verdicts"]} == {
        ("tcpstates", "S2", "wrong", "right"),
        ("tcpstates", "S3", "right", "missing"),
        ("tcplife", "D3", "right", "crashed"),
    }
    assert (changes["new"], changes["gone"]) == (1, 1)
    shown = text_of(place, part="changes")
    assert "first (2026-11-01 08:00 UTC): 3 verdicts changed, 1 new, 1 not here any more" in shown
    assert "tcplife 1.0 → 2.0 6.18.44 D3 ✓ right ✗ crashed" in shown
    assert shown.index("✗ missing") < shown.index("S2")
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    site(tmp_path, second)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before, "made again from the same runs"


def test_one_of_two_versions(tmp_path):
    """A version that both sites have is compared with itself, whatever another version's verdict is."""
    first = judged_run(
        tmp_path / "first", judged(product(version="1"), {"S1": "wrong"}), judged(product(version="2"), {"S1": "right"})
    )
    second = judged_run(tmp_path / "second", judged(product(version="1"), {"S1": "wrong"}))
    site(tmp_path, first)
    _, found = site(tmp_path, second)
    assert (found["changes"]["verdicts"], found["changes"]["new"], found["changes"]["gone"]) == ([], 0, 0)


def test_costs_are_those_of_the_newest_bench(tmp_path):
    """Only kernel cost and observer effect, the newest run of each kernel; without them the page says that none was measured."""
    run = judged_run(tmp_path / "run", judged(product(), {"S1": "right"}))
    place, _ = site(tmp_path, run)
    assert "No cost was measured" in text_of(place, part="cost")
    benches = [
        folder(tmp_path / name, measurements=measurements(slow=slow), started=started)
        for name, slow, started in (("old", 50, OLD), ("new", 1, NEW))
    ]
    place, _ = site(tmp_path, run, *benches)
    shown = text_of(place, part="cost")
    assert "kernel cost tool time per event lab states" in shown
    assert "observer effect tool connections/s, with to without lab states" in shown
    assert "memory" not in shown
    (median,) = (it.median for it in measurements() if (it.figure, it.tool) == ("observer effect", "lab rtt"))
    assert f"lab rtt {median:.3g}" in shown
    assert shown.count("lab rtt") == 2


def test_costs_compare_tools(tmp_path):
    """A repetition without a tool, the cost of one program and the ratio to another tool are left out; who was refused is listed."""
    rows = [
        Measurement("kernel cost", "lab rtt", "per event", "ns", [90.0], {"event": "segment received"}),
        Measurement("kernel cost", "lab rtt", "per event, of its lab_tcp_probe", "ns", [80.0]),
        Measurement("kernel cost", "lab rtt", "per request, ratio to the cheapest peer (tcprtt)", "ratio", [2.0]),
        Measurement("kernel cost", "none", "of counting, per run", "ns", [40.0]),
        Measurement("kernel cost", "tcpdump", "per event", "ns", refused="it uses a packet filter"),
    ]
    run = judged_run(tmp_path / "run", judged(product(), {"S1": "right"}), measurements=rows)
    place, _ = site(tmp_path, run)
    shown = text_of(place, part="cost")
    assert shown.endswith(
        "kernel cost tool per event lab rtt 90 ns 90 ns event segment received 1 tool not measured tcpdump it uses a packet filter"
    )


def hostile_run(path):
    """Make a run in which every text is hostile."""
    one = product(HOSTILE[:50], HOSTILE, f"../../{HOSTILE}", HOSTILE, project="javascript:console.error(1)", ours=True)
    mine = judged(
        one, {HOSTILE: "wrong", "../S1": "cannot run"}, output=HOSTILE, log=HOSTILE, experiment=f"../{HOSTILE}",
        revision=HOSTILE, text=HOSTILE, why=HOSTILE, definitions=[HOSTILE],
        findings=[finding(Verdict.WRONG, quantity=HOSTILE, subject=HOSTILE, unit=HOSTILE, told=HOSTILE, truth=HOSTILE,
                          known_by=HOSTILE, rows=[HOSTILE])],
    )  # fmt: skip
    return judged_run(path, mine, kernel={"release": HOSTILE}, commit=HOSTILE, measurements=measurements())


def test_a_name_is_only_a_name(tmp_path):
    """Markup in any text of a run is escaped, on every page; names of files have no folder, and no address runs a script."""
    run = hostile_run(tmp_path / "run")
    place, found = site(tmp_path, run)
    assert len(found["judgements"]) == 2
    for path in place.iterdir():
        assert re.fullmatch(r"[a-zA-Z0-9.-]+", path.name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "site"]
    for path in place.glob("*.html"):
        page = path.read_text()
        assert "<img" not in page
        assert page.count("<script") == page.count("</script") == 1
        assert "\u202e" not in page
        for address in re.findall(r'(?:href|src)="([^"]*)"', page):
            assert address.startswith("#") or (place / address.partition("#")[0]).is_file(), address
    site(tmp_path, run)
    site(tmp_path, judged_run(tmp_path / "other", judged(product(), {"S1": "right"})))


def test_a_hostile_earlier_site(tmp_path):
    """The files that it claims are removed only if their names are those of a site."""
    run = judged_run(tmp_path / "run", judged(product(), {"S1": "right"}))
    place, found = site(tmp_path, run)
    (tmp_path / "precious.html").write_text("precious")
    (place / "notes.html").write_text("precious")
    (place / "tool-old.html").write_text("old")
    files = [
        "../precious.html",
        "notes.html",
        "tool-old.html",
        str(tmp_path / "precious.html"),
        "tool-/../../precious.html",
    ]
    (place / "judgements.json").write_text(json.dumps(found | {"files": files}))
    site(tmp_path, run)
    assert (tmp_path / "precious.html").read_text() == (place / "notes.html").read_text() == "precious"
    assert not (place / "tool-old.html").exists()


def test_no_link_is_followed(tmp_path):
    """A link in the place of a page is replaced; its target keeps its content."""
    run = judged_run(tmp_path / "run", judged(product(), {"S1": "right"}))
    place, _ = site(tmp_path, run)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for path in list(place.iterdir()):
        if path.name != "judgements.json":
            path.unlink()
            path.symlink_to(victim)
    site(tmp_path, run)
    assert victim.read_text() == "precious"
    assert not any(path.is_symlink() for path in place.iterdir())


def test_links_lead_somewhere(tmp_path):
    """Every link of every page leads to a file of the site and to a part that it has; the policy forbids all requests."""
    run = judged_run(
        tmp_path / "run",
        judged(product(project="https://example.org/tool"), {"S1": "wrong", "a case": "right"}),
        judged(product(tool="tcplife"), {"D3": "right"}, kinds=("duration",)),
    )
    place, found = site(tmp_path, run)
    pages = {path.name: path.read_text() for path in place.glob("*.html")}
    parts = {name: set(re.findall(r'id="([^"]*)"', page)) for name, page in pages.items()}
    for name, page in pages.items():
        assert "default-src 'none'" in page
        assert "url(" not in page
        assert not re.search(r"@import|<link|src=", page)
        for address in re.findall(r'href="([^"]*)"', page):
            file, _, part = address.partition("#")
            if address != "https://example.org/tool":
                assert (place / (file or name)).is_file(), address
                assert not part or part in parts[file or name], address
    assert found["files"] == sorted(path.name for path in place.iterdir() if path.name != "judgements.json")


def test_ethics_is_the_page_of_the_docs(tmp_path):
    """The site has every word of docs/ethics.md."""
    place, _ = site(tmp_path, judged_run(tmp_path / "run", judged(product(), {"S1": "right"})))
    words = re.sub(r"^(#+|-|\d+\.) ", "", (CHECKOUT / "docs" / "ethics.md").read_text(), flags=re.MULTILINE)
    shown = re.sub(r"\s", "", text_of(place, "ethics.html"))
    assert re.sub(r"[`\s]", "", words) in shown
    assert "docs/ethics.md" in text_of(place)


def test_names_of_runs(tmp_path, monkeypatch):
    """A run is found by its name in the folder of results, as in other commands."""
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path / "results"))
    judged_run(tmp_path / "results" / "20261130T080000-1", judged(product(), {"S1": "right"}))
    (tmp_path / "results" / "latest").symlink_to("20261130T080000-1")
    _, found = site(tmp_path, "latest", "20261130T080000-1")
    assert [it["name"] for it in found["runs"]] == ["20261130T080000-1"]


def test_a_run_that_was_killed(tmp_path):
    """Its judgements count, and the page says that it did not end. A bench that has ended has no exit status."""
    run = judged_run(tmp_path / "run", judged(product(), {"S1": "right"}), status=None)
    bench = folder(tmp_path / "bench", measurements=measurements(), attach_points={})
    place, found = site(tmp_path, run, bench)
    assert [it["ended"] for it in found["runs"]] == [False, True]
    assert text_of(place, part="runs").count("did not end by itself") == 1


def test_runs_without_judgements(tmp_path, capsys):
    """One sentence, exit status 2, and no folder."""
    empty, run = folder(tmp_path / "empty"), judged_run(tmp_path / "run", judged(product(), {"S1": "right"}))
    bench = folder(tmp_path / "bench", measurements=measurements())
    for runs, words in (
        ([empty], "neither judgements nor costs"),
        ([run, empty], "neither"),
        ([bench], "none of these"),
    ):
        assert words in error(capsys, "site", *runs, "-o", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_evidence_that_is_lost(tmp_path, capsys):
    """A run without its evidence, with that of another product, or from outside of its folder is refused."""
    run = judged_run(tmp_path / "run", judged(product(), {"S1": "right"}))
    other = judged_run(tmp_path / "other", judged(product(version="2.0"), {"S1": "right"}))
    line = (run / "judgements.jsonl").read_text()
    (run / "judgements.jsonl").write_text(line.replace("evidence/0.json", ""))
    assert "keeps no evidence of tcpstates, S1" in error(capsys, "site", run, "-o", tmp_path / "site")
    (run / "judgements.jsonl").write_text(line.replace("evidence/0.json", "../other/evidence/0.json"))
    assert "outside of the run's folder" in error(capsys, "site", run, "-o", tmp_path / "site")
    (run / "judgements.jsonl").write_text(line)
    (run / "evidence" / "0.json").write_text((other / "evidence" / "0.json").read_text())
    assert "is the evidence of tcpstates 2.0" in error(capsys, "site", run, "-o", tmp_path / "site")
    (run / "evidence" / "0.json").unlink()
    assert "cannot be read" in error(capsys, "site", run, "-o", tmp_path / "site")
    site(tmp_path, other)  # what the broken runs have begun is no obstacle


def test_folders_that_are_no_site(tmp_path, capsys):
    """Another folder, a file, a foreign judgements.json or a link in its place: one sentence, status 2, and nothing is changed."""
    run = judged_run(tmp_path / "run", judged(product(), {"S1": "right"}))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "index.html").write_text("precious")
    assert "holds other files than a site of the lab (`index.html`)" in error(
        capsys, "site", run, "-o", tmp_path / "notes"
    )
    assert "it is a file" in error(capsys, "site", run, "-o", run / "run.json")
    assert "cannot be the folder of a site" in error(capsys, "site", run, "-o", run / "run.json" / "site")
    (tmp_path / "foreign").mkdir()
    foreign = tmp_path / "foreign" / "judgements.json"
    for content in ('{"schema": 1, "program": "another"}', "[]", "no JSON"):
        foreign.write_text(content)
        assert "name another folder" in error(capsys, "site", run, "-o", tmp_path / "foreign")
        assert foreign.read_text() == content
    place, _ = site(tmp_path, run)
    foreign.unlink()
    foreign.symlink_to(place / "judgements.json")
    assert "holds other files" in error(capsys, "site", run, "-o", tmp_path / "foreign")
    assert sorted(path.name for path in (tmp_path / "notes").iterdir()) == ["index.html"]


def test_a_site_of_another_version(tmp_path):
    """It is replaced, and not compared."""
    run = judged_run(tmp_path / "run", judged(product(), {"S1": "right"}))
    place, _ = site(tmp_path, run)
    (place / "tool-old.html").write_text("old")
    later = {"schema": 99, "program": "tcp-truth-lab", "files": ["tool-old.html"], "judgements": "another form"}
    (place / "judgements.json").write_text(json.dumps(later))
    _, found = site(tmp_path, run)
    assert (found["schema"], found["changes"]) == (1, None)
    assert not (place / "tool-old.html").exists()
