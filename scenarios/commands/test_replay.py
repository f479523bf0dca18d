"""`lab replay`: bytes and gaps as captured, the output of probes, and error messages."""

import json
import re
import sys
from itertools import pairwise

import pytest
from pyroute2 import IPRoute
from support.packet_taps import received_by
from support.processes import HUNG_S, NOTHING, belongings, lab_command, left_of, refuses, started

from lab.linux.netns import inside
from lab.probes.packets.pcapng_writer import Capture
from lab.tcp import Flow
from lab.traffic.crafted.script import segments
from lab.traffic.crafted.script_player import frame
from lab.traffic.crafted.unusual_frames import lacks_tag, unusual
from lab.units import MS

LONGEST = 1514
FLOW = Flow("198.51.100.1", 40000, "203.0.113.1", 80)
SCRIPT = "cS 20ms sSA 30ms cF sF"


def written(path, frames, gaps_ns):
    """Write a capture and return its path. Each gap is the time before its frame."""
    time_ns = 1_700_000_000 * 10**9
    with Capture(path, "eth0", 1 << 16) as capture:
        for data, gap_ns in zip(frames, gaps_ns, strict=True):
            time_ns += gap_ns
            capture.frame(time_ns, data, len(data))
    return path


def rows_of(process):
    """Return the rows of the frames sent."""
    return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]


def test_as_captured(net, tmp_path):
    """Each frame arrives unchanged, none is sent before it is due, and the gaps are those of the file."""
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
    """With --speed 5 each gap is a fifth; with --at-once there are no gaps."""
    frames = [it.data for it in unusual()][:3]
    path = written(tmp_path / "slow.pcapng", frames, [0, 5 * MS, 10 * MS] if "--speed" in pace else [0, 10**15, 10**15])
    rows = rows_of(lab_command("replay", str(path), "--netns", net.client.name, "--json", *pace))
    assert len(rows) == len(frames)
    if "--speed" in pace:
        assert [row["due_ns"] - rows[0]["due_ns"] for row in rows] == [0, 1 * MS, 3 * MS]


def test_probes(net, tmp_path):
    """In the lab's own network, the duration is within the timestamps, and packets of both directions arrive."""
    script = segments(SCRIPT)
    path = written(tmp_path / "talk.pcapng", [frame(net, FLOW, it) for it in script], [it.gap_ns for it in script])
    done = lab_command("replay", str(path), "--json", "--probes", "duration", "packets")
    assert done.returncode == 0, done.stderr
    syn, _, fin, _ = rows_of(done)
    durations = re.findall(r"198\.51\.100\.1:40000 -> .* Duration: (\d+)\.(\d{9})", done.stdout)
    assert len(durations) == 2
    at_client_ns = int("".join(durations[0]))
    assert fin["due_ns"] - syn["due_ns"] >= 50 * MS
    assert fin["before_ns"] - syn["after_ns"] <= at_client_ns <= fin["after_ns"] - syn["before_ns"]
    arrived = re.findall(r"src_port: (\d+), dst_ip: \S+,  dst_port: (\d+)", done.stdout)
    assert arrived == [("40000", "80"), ("80", "40000"), ("40000", "80"), ("80", "40000")]


def test_a_truncated_file(net, tmp_path):
    """The complete frames of a truncated file are sent and reported, and the tables printed; exit status 2."""
    script = segments(SCRIPT)
    path = written(tmp_path / "talk.pcapng", [frame(net, FLOW, it) for it in script], [0] * len(script))
    path.write_bytes(path.read_bytes()[:-10])
    done = lab_command("replay", str(path), "--json", "--probes", "flows")
    assert done.returncode == 2
    assert len(rows_of(done)) == 3
    assert "3 frames sent, " in done.stderr
    assert "is cut off or damaged after frame 3: " in done.stderr
    assert re.search(r"TCP +198\.51\.100\.1 +203\.0\.113\.1 +2 ", done.stdout)
    assert "Traceback" not in done.stderr


def test_a_frame_beyond_the_mtu(tmp_path):
    """The error for a frame above the MTU names the frame; a larger MTU carries it."""
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


def test_an_interface_that_disappears(net, tmp_path):
    """If the interface disappears: the frames sent until then, one sentence, exit status 2."""

    def delete():
        with IPRoute() as netlink:
            netlink.link("del", index=net.client.ifindex)

    command = [sys.executable, "-m", "lab", "replay", str(slow(tmp_path)), "--netns", net.client.name, "--json"]
    with started(*command, ready='"frame": 3,') as process:
        inside(net.client.name, delete)
        output = process.stdout.read()
        assert process.wait(timeout=HUNG_S) == 2
    assert re.search(r"lab: \d+ frames sent, ", output)
    assert re.search(
        r"lab: frame \d+ of .* was not sent: the interface `eth0` has gone: start again when it is back", output
    )
    assert "Traceback" not in output


def test_stopped(tmp_path):
    """Ctrl-C ends the replay between two frames; the frames sent are reported, and nothing is left."""
    command = [sys.executable, "-m", "lab", "replay", str(slow(tmp_path)), "--json"]
    with started(*command, ready='"frame": 2,') as process:
        held = belongings(process.pid)
        process.send_signal(2)
        output = process.stdout.read()
        assert process.wait(timeout=HUNG_S) == 130
    assert re.search(r"lab: stopped: \d+ frames sent, ", output)
    assert "Traceback" not in output
    assert left_of(held) == NOTHING


BAD = {
    "no such file": (["nowhere.pcap"], "nowhere.pcap cannot be read (No such file or directory)"),
    "no capture": ([__file__], "is not a capture: give a pcap or pcapng file"),
    "no speed": (["x", "--speed", "0"], "`0` is no speed: give a number above 0"),
    "probes elsewhere": ([__file__, "-i", "lo", "--probes", "states"], "work in the lab's own network only"),
    "an MTU that no device has": (["x", "--mtu", "100000"], "`100000` is no MTU"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_one_sentence(arguments, sentence):
    """Wrong arguments give one sentence on standard error, exit status 2 and no output."""
    refuses(["replay", *arguments], sentence)
