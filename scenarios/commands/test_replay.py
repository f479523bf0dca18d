"""`lab replay` as a user runs it: bytes and gaps as captured, what probes say of it, and what it says when something is wrong."""

import json
import re
import sys
from itertools import pairwise

import pytest
from pyroute2 import IPRoute
from support.packet_taps import received_by
from support.processes import HUNG_S, NOTHING, belongings, lab_command, left_of, started

from lab.linux.netns import inside
from lab.probes.packets.pcapng_writer import Capture
from lab.tcp import Flow
from lab.traffic.crafted.script import segments
from lab.traffic.crafted.script_player import frame
from lab.traffic.crafted.unusual_frames import lacks_tag, unusual
from lab.units import MS

LONGEST = 1514
FLOW = Flow("198.51.100.1", 40000, "203.0.113.1", 80)
STORY = "cS 20ms sSA 30ms cF sF"


def written(path, frames, gaps_ns):
    """Write a capture; a gap comes before its frame."""
    time_ns = 1_700_000_000 * 10**9
    with Capture(path, "eth0", 1 << 16) as capture:
        for data, gap_ns in zip(frames, gaps_ns, strict=True):
            time_ns += gap_ns
            capture.frame(time_ns, data, len(data))
    return path


def rows_of(process):
    """Return what was sent, frame by frame."""
    return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]


def test_as_captured(net, tmp_path):
    """Each frame arrives byte for byte, none leaves before its time, and its gaps are the file's."""
    frames = [it.data for it in unusual() if len(it.data) <= LONGEST and not lacks_tag(it.data)]
    gaps_ns = [number % 4 * MS for number in range(len(frames))]
    path = written(tmp_path / "unusual.pcapng", frames, gaps_ns)
    with received_by(net.server) as arrived:
        done = lab_command("replay", str(path), "--netns", net.client.name, "--json")
        net.quiesce()
    assert done.returncode == 0, done.stderr
    assert sorted(arrived) == sorted(frames)
    rows = rows_of(done)
    assert [row["frame"] for row in rows] == list(range(1, len(frames) + 1))
    assert [row["captured_length"] for row in rows] == [len(data) for data in frames]
    due_ns = [row["due_ns"] for row in rows]
    assert [after - before for before, after in pairwise(due_ns)] == gaps_ns[1:]
    assert all(row["due_ns"] <= row["before_ns"] <= row["after_ns"] for row in rows)
    assert f"{len(frames)} frames sent, " in done.stderr


@pytest.mark.parametrize("pace", [["--speed", "5"], ["--at-once"]], ids=" ".join)
def test_another_pace(net, tmp_path, pace):
    """Five times as fast each gap is a fifth; at once there is none."""
    frames = [it.data for it in unusual()][:3]
    path = written(tmp_path / "slow.pcapng", frames, [0, 5 * MS, 10 * MS] if "--speed" in pace else [0, 10**15, 10**15])
    rows = rows_of(lab_command("replay", str(path), "--netns", net.client.name, "--json", *pace))
    assert len(rows) == len(frames)
    if "--speed" in pace:
        assert [row["due_ns"] - rows[0]["due_ns"] for row in rows] == [0, 1 * MS, 3 * MS]


def test_what_probes_say(net, tmp_path):
    """In a network of its own, with probes: a conversation's duration lies between the stamps, both ways arrive; nothing is left."""
    told = segments(STORY)
    path = written(tmp_path / "talk.pcapng", [frame(net, FLOW, it) for it in told], [it.gap_ns for it in told])
    done = lab_command("replay", str(path), "--json", "--probes", "duration", "packets")
    assert done.returncode == 0, done.stderr
    syn, _, fin, _ = rows_of(done)
    durations = re.findall(r"198\.51\.100\.1:40000 -> .* Duration: (\d+)\.(\d{9})", done.stdout)
    assert len(durations) == 2
    at_client_ns = int("".join(durations[0]))
    assert fin["due_ns"] - syn["due_ns"] >= 50 * MS
    assert fin["before_ns"] - syn["after_ns"] <= at_client_ns <= fin["after_ns"] - syn["before_ns"]
    came = re.findall(r"src_port: (\d+), dst_ip: \S+,  dst_port: (\d+)", done.stdout)
    assert came == [("40000", "80"), ("80", "40000"), ("40000", "80"), ("80", "40000")]


def test_what_is_cut_off(net, tmp_path):
    """Of a file that is cut off the frames before are sent, and told, also what probes say of them; then one sentence, status 2."""
    told = segments(STORY)
    path = written(tmp_path / "talk.pcapng", [frame(net, FLOW, it) for it in told], [0] * len(told))
    path.write_bytes(path.read_bytes()[:-10])
    done = lab_command("replay", str(path), "--json", "--probes", "flows")
    assert done.returncode == 2
    assert len(rows_of(done)) == 3
    assert "3 frames sent, " in done.stderr
    assert "is cut off or damaged behind frame 3: " in done.stderr
    assert re.search(r"TCP +198\.51\.100\.1 +203\.0\.113\.1 +2 ", done.stdout)
    assert "Traceback" not in done.stderr


def test_a_frame_beyond_the_mtu(tmp_path):
    """A frame that is too long is named; a larger MTU carries it."""
    frames = [bytes(it.data) for it in unusual()][:4]
    assert len(frames[3]) > LONGEST
    path = written(tmp_path / "jumbo.pcapng", frames, [0] * 4)
    done = lab_command("replay", str(path))
    assert done.returncode == 2
    assert "3 frames sent, " in done.stderr
    assert "frame 4 of " in done.stderr
    assert "a frame of 9014 bytes is longer than `eth0` can carry: give it a larger MTU (--mtu)" in done.stderr
    done = lab_command("replay", str(path), "--mtu", "9000")
    assert (done.returncode, "4 frames sent, " in done.stderr) == (0, True)


def slow(tmp_path):
    """Write a capture that takes 20 s."""
    data = next(unusual()).data
    return written(tmp_path / "slow.pcapng", [data] * 200, [100 * MS] * 200)


def test_an_interface_that_goes_away(net, tmp_path):
    """What was sent until then is told, then one sentence, and exit status 2."""

    def take_away():
        with IPRoute() as netlink:
            netlink.link("del", index=net.client.ifindex)

    command = [sys.executable, "-m", "lab", "replay", str(slow(tmp_path)), "--netns", net.client.name, "--json"]
    with started(*command, ready='"frame": 3,') as process:
        inside(net.client.name, take_away)
        said = process.stdout.read()
        assert process.wait(timeout=HUNG_S) == 2
    assert re.search(r"lab: \d+ frames sent, ", said)
    assert re.search(
        r"lab: frame \d+ of .* was not sent: the interface `eth0` has gone: start again when it is back", said
    )
    assert "Traceback" not in said


def test_stopped(tmp_path):
    """Ctrl-C ends it between two frames; what was sent is told, and nothing is left."""
    command = [sys.executable, "-m", "lab", "replay", str(slow(tmp_path)), "--json"]
    with started(*command, ready='"frame": 2,') as process:
        held = belongings(process.pid)
        process.send_signal(2)
        said = process.stdout.read()
        assert process.wait(timeout=HUNG_S) == 130
    assert re.search(r"lab: stopped: \d+ frames sent, ", said)
    assert "Traceback" not in said
    assert left_of(held) == NOTHING


BAD = {
    "no such file": (["nowhere.pcap"], "nowhere.pcap cannot be read (No such file or directory)"),
    "no capture": ([__file__], "is no capture: give a pcap or pcapng file"),
    "no speed": (["x", "--speed", "0"], "`0` is no speed: give a number above 0"),
    "probes elsewhere": ([__file__, "-i", "lo", "--probes", "states"], "watch the lab's own network only"),
    "an MTU that no device has": (["x", "--mtu", "100000"], "`100000` is no MTU"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_one_sentence(arguments, sentence):
    """One sentence on standard error, exit status 2, and nothing was built."""
    done = lab_command("replay", *arguments)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
