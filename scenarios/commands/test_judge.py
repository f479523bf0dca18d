"""`lab judge` as an author of a tool uses it: verdicts, evidence, exit statuses, and tools that do not play fair."""

import json
import signal
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from support.processes import lab_command

from lab.errors import EventsWithheld

RIGHT, FAILED, USER_ERROR = 0, 1, 2
SYNS = "echo ready; tcpdump --immediate-mode -n -l -i {interface} 'tcp[tcpflags] & tcp-syn != 0 and src {client}' 2>/dev/null | "
"""The beginning of a script that sees the client's SYNs."""

DURATION = """
[[quantity]]
kind = "duration"
from = "syn_seen"
to = "first_end_seen"
unit = "us"
"""


@pytest.fixture
def described(tmp_path):
    """Return a function that writes a description of a shell script that prints rows; returns its path."""

    def write(script, quantity=DURATION, **options):
        settings = {"ready.text": "ready", "inside": True, "settle": "1s"} | options
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        path = tmp_path / "mine.toml"
        path.write_text(
            'name = "mine"\n'
            f"command = {json.dumps(['sh', '-c', script])}\n" + "\n".join(lines) + "\n[output]\nformat = 'table'\n"
            r"row = '''^(?P<laddr>\S+) (?P<lport>\d+) (?P<raddr>\S+) (?P<rport>\d+) (?P<value>\S+)$'''"
            + f"\n{quantity}"
        )
        return str(path)

    return write


def judged(*words):
    """Run `lab judge --json`; returns the exit status and the judgements by case."""
    done = lab_command("judge", *words, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode in (RIGHT, FAILED), done.stderr
    require_complete(line["verdict"] for line in lines)
    return done.returncode, {line["case"]: line for line in lines}


def require_complete(verdicts):
    """Raise `EventsWithheld` if a tool lost events beside other scenarios, so that the test is run again."""
    if "lost" in verdicts:
        raise EventsWithheld({"lab judge": 1})


def test_a_right_tool():
    """A tool of the lab itself goes through the same door. Each verdict has its evidence."""
    status, found = judged("lab-duration", "--case", "N1", "D1")
    assert (status, {case: one["verdict"] for case, one in found.items()}) == (RIGHT, {"N1": "right", "D1": "right"})
    finding = next(it for it in found["D1"]["findings"] if it["quantity"].startswith("from syn_seen"))
    assert finding["low"] <= finding["told"] <= finding["high"]
    assert finding["low"] > 1_000_000_000, "the first SYN was lost, and is part of the duration"
    assert "the wire's log" in finding["known_by"]
    assert json.loads(finding["rows"][0])["duration_ns"] == finding["told"]


@pytest.mark.parametrize("tool", ["rtt", "flows", "retransmits", "drops", "packets"])
def test_the_tools_of_the_lab(tool):
    """Each is right in every case that its description has a value for, or says that it cannot know."""
    status, found = judged(f"lab-{tool}", "--quick")
    verdicts = {case: it["verdict"] for case, it in found.items()}
    assert {case: verdict for case, verdict in verdicts.items() if verdict not in ("right", "unknown")} == {}
    assert "right" in verdicts.values()
    assert status == RIGHT


def test_a_wrong_value_has_its_evidence(described):
    """The interval of the truth, the value, the distance, how the truth is known, and the tool's own row are printed."""
    script = SYNS + r"sed -un 's/^.* IP \(.*\)\.\([0-9]*\) > \(.*\)\.\([0-9]*\): .*/\1 \2 \3 \4 1000/p'"
    done = lab_command("judge", described(script), "--case", "N1")
    assert done.returncode == FAILED, done.stderr
    for words in (
        "mine, N1: wrong",
        "it measures from syn_seen to first_end_seen",
        "the tool tells 1.000 ms, the truth is between ",
        " ms off",
        "the truth is known by syn_seen: the client's first SYN passes the observed interface",
        "the tool printed: 192.0.2.1 ",
        "evidence: ",
    ):
        assert words in done.stdout


def test_a_silent_tool_is_missing(described):
    """A tool that prints nothing is not wrong, and not right."""
    status, found = judged(described("echo ready; exec sleep 60"), "--case", "N1")
    assert (status, found["N1"]["verdict"]) == (FAILED, "missing")
    assert judged(described("echo ready; exec sleep 60"), "--case", "N1", "--fail-on", "wrong")[0] == RIGHT


def test_an_answer_to_everything_is_not_compliant(described):
    """A tool that tells of traffic that never was is found before it is judged."""
    status, found = judged(
        described("echo ready; echo {client} 40000 {server} {port} 5; exec sleep 60"), "--case", "N1"
    )
    assert (status, found["N1"]["verdict"]) == (FAILED, "not compliant")
    assert found["N1"]["findings"][0]["truth"] == "nothing: there was no traffic"


def test_a_tool_can_say_that_it_does_not_know_a_case(described):
    """Exit status 127 is no failure."""
    status, found = judged(described("exit 127"), "--case", "N1")
    assert (status, found["N1"]["verdict"]) == (RIGHT, "not asked")


def test_a_tool_that_cannot_run(described):
    """Its own words are kept. A run in which nothing could be judged has failed, one with another tool has not."""
    path = described("echo 'error: kprobe is refused' >&2; exit 1")
    status, found = judged(path, "--case", "N1")
    assert (status, found["N1"]["verdict"], found["N1"]["why"]) == (FAILED, "cannot run", "error: kprobe is refused")
    assert lab_command("judge", path, "lab-duration", "--case", "N1").returncode == RIGHT


def test_a_crash_is_not_called_wrong(described):
    """A tool that observed and then ended by itself has crashed."""
    script = 'echo ready; case "$LAB_CASE" in N1) echo giving up >&2; exit 3;; esac; exec sleep 60'
    status, found = judged(described(script), "--case", "N1")
    assert (status, found["N1"]["verdict"]) == (FAILED, "crashed")
    assert found["N1"]["why"] == "it ended by itself with status 3: giving up"


def test_verdicts_before_an_error_are_shown(described):
    """A mistake in the second description takes nothing of the first tool away."""
    broken = described("echo ready; echo 192.0.2.1 1 192.0.2.2 2 soon; exec sleep 60")
    done = lab_command("judge", "lab-duration", broken, "--case", "N1", "--quick")
    assert (done.returncode, "is no value" in done.stderr) == (USER_ERROR, True), done.stderr
    assert "lab duration" in done.stdout
    assert "evidence" in done.stdout


def test_a_tool_that_changes_the_traffic(described):
    """With it segments are sent again, and without it not."""
    rules = (
        "add table inet t; add chain inet t c { type filter hook output priority 0; }; "
        "add rule inet t c tcp flags & (syn|ack|psh) == psh|ack limit rate over 1/second burst 1 packets counter drop"
    )
    status, found = judged(described(f"nft '{rules}' && echo ready; exec sleep 60"), "--case", "N1")
    assert (status, found["N1"]["verdict"]) == (FAILED, "changed the traffic")
    assert "sent again" in found["N1"]["why"]


def test_a_judge_in_the_background_of_a_script(described):
    """The shell has SIGINT ignored there. The tool gets it nevertheless, and prints what it knows when it ends."""
    script = "trap 'echo {client} 40000 {server} {port} 5; exit' INT; echo ready; while :; do sleep 0.05; done"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a child inherits it
    try:
        status, found = judged(described(script), "--case", "N1")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (status, found["N1"]["verdict"]) == (FAILED, "not compliant")


def test_a_value_said_to_be_unknown(described):
    """A tool that prints the connection with `-` has said that it does not know."""
    script = SYNS + r"sed -un 's/^.* IP \(.*\)\.\([0-9]*\) > \(.*\)\.\([0-9]*\): .*/\1 \2 \3 \4 -/p'"
    status, found = judged(described(script), "--case", "N1")
    assert (status, found["N1"]["verdict"]) == (RIGHT, "unknown")


def test_a_kept_run_is_judged_again(tmp_path):
    """`--replay` needs no kernel: it judges what the tool printed, and finds the same."""
    done = lab_command(
        "judge", "lab-states", "--case", "S1", "S6", "--junit", tmp_path / "j.xml", "--badge", tmp_path / "b.svg"
    )
    assert done.returncode == RIGHT, done.stderr
    folder = done.stdout.split("evidence: ")[1].strip()
    require_complete(
        json.loads(line)["verdict"] for line in (Path(folder) / "judgements.jsonl").read_text().splitlines()
    )
    suite = ET.parse(tmp_path / "j.xml").getroot()  # noqa: S314 (our own file)
    assert [(it.get("name").partition(":")[0], len(it)) for it in suite] == [("S1", 0), ("S6", 0)]
    assert "2 of 2 cases right" in ET.parse(tmp_path / "b.svg").getroot().get("aria-label")  # noqa: S314
    again = lab_command("judge", "--replay", folder, "--junit", tmp_path / "again.xml")
    assert again.returncode == RIGHT, again.stderr
    assert (tmp_path / "again.xml").read_text() == (tmp_path / "j.xml").read_text()
    assert "1 judgements from" in lab_command("judge", "--replay", folder, "--case", "S6").stdout
    assert "2 judgements from kept evidence, 0 with another verdict" in again.stdout
    # Without what the tool printed, nothing is told; it may have said that it lost events.
    (evidence,) = (it for it in (Path(folder) / "evidence").iterdir() if "ordinary" in it.name)
    kept = json.loads(evidence.read_text())
    kept["printed"] |= {"output": "", "stderr": ""}
    evidence.write_text(json.dumps(kept))
    again = lab_command("judge", "--replay", folder)
    assert again.returncode == FAILED
    assert "lab states, S1: right -> missing" in again.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.toml"], "there is no tool nothing.toml: name the file of a description, or one of argus"),
        (["tcpdump", "--case", "X9"], "there is no case X9: choose from D1"),
        (["tcpdump", "--case", "S1"], "none of these cases is put to these tools"),
        (["--replay", "nowhere"], "nowhere is no run's folder"),
        (["--replay", "latest", "-o", "pages"], "use `lab site` for a run"),
    ],
)
def test_mistakes_are_named(words, message):
    """One sentence, and status 2."""
    done = lab_command("judge", *words)
    assert done.returncode == USER_ERROR
    assert done.stderr.startswith("lab: ")
    assert message in done.stderr


def test_the_list():
    """Cases, kinds, tools and points are listed without privileges."""
    listed = lab_command("judge", "--list").stdout
    assert all(
        word in listed
        for word in ("N1", "every number of an ordinary connection", "rtt-histogram", "libbpf-tools tcplife")
    )
    assert "the kernel ends the full socket" in lab_command("judge", "--points").stdout
