"""`lab layers` as a user runs it: on both hosts, on one host and on loopback; its files, its errors and its end."""

import csv
import io
import json
import os
import socket
import subprocess
import sys

import pytest
from support.processes import HUNG_S, NOTHING, belongings, end, lab_command, left_of, parsed, refuses, started, watching

from lab import probes
from lab.linux.netns import inside
from lab.observation import observe
from lab.probes.layers.stages import LAYERS
from lab.report.request_timeline import stamps
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.truth.requests import exchanges
from lab.units import MS
from lab.verdict import Judge

PLAN = Conversation(exchanges=3, before_reply_ns=5 * MS)


def talk(net, **how):
    """Hold conversations to their end, and return their connections."""
    with converse(net, PLAN, **how) as demo:
        pass
    net.quiesce()
    return demo.connections


def both(net):
    """Return the options for both hosts."""
    return "--netns", net.client.name, "--peer-netns", net.server.name


def test_requests(lab, tmp_path):
    """Every request is a row whose layers add up, inside the brackets of the applications; the files are written."""
    files = ("--perfetto", str(tmp_path / "trace.json"), "--plot", str(tmp_path / "layers.svg"))
    with watching("layers", "--json", *both(lab.net), *files) as output:
        connections = talk(lab.net, connections=3, version=6)
    rows = parsed(output)
    judge, checks = Judge(lab.scenario, "layers", ""), []
    for connection in connections:
        flow = connection.client.flow
        mine = [row for row in rows if (row["client_address"], row["client_port"]) == (flow.laddr, flow.lport)]
        for exchange, row in zip(exchanges(connection), mine, strict=True):
            layers = [row[f"{leg}_{name}_ns"] for leg in ("request", "reply") for name in LAYERS]
            assert sum(layers) == row["total_ns"]
            checks.append(judge.duration(str(flow), "round trip", exchange.round_trip, row["total_ns"]))
            checks.append(judge.duration(str(flow), "application", exchange.application, row["reply_application_ns"]))
    assert len(lab.check(checks)) == 2 * 3 * 3
    slices = [event for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"] if event["ph"] == "X"]
    assert len(slices) == 9 * 2 * len(LAYERS)
    assert (tmp_path / "layers.svg").stat().st_size > 10_000


def test_table(net):
    """The table has two lines for each request; percentiles, waterfall and histograms follow."""
    with watching("layers", *both(net), "--waterfall", "--histogram") as output:
        talk(net)
    errors, text = output
    assert not errors
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["CLIENT", "(us)"]
    assert [line.split()[0] for line in lines[2:7:2]] == ["reply"] * 3
    assert "3 requests, microseconds:" in text
    assert "request server wake-up" in text
    assert "reply, application (server)" in text


def test_one_host(net):
    """With one host, its layers are reported; the other layers are empty and their time is `elsewhere`."""
    with watching("layers", "--csv", "--netns", net.client.name) as output:
        talk(net)
    rows = list(csv.DictReader(io.StringIO(output[1])))
    assert len(rows) == 3
    for row in rows:
        assert row["request_wire_ns"] == row["reply_application_ns"] == ""
        assert int(row["elsewhere_ns"]) > 5 * MS
        assert int(row["reply_tcp_ns"]) > 0


def test_loopback(net):
    """On loopback both ends are observed, and requests to another port are not."""
    with watching("layers", "--json", "-i", "lo", "-P", "7777", "--netns", net.server.name) as output:
        for port, size in ((7777, 10), (7778, 20)):
            with (
                inside(net.server.name, lambda port=port: socket.create_server(("127.0.0.1", port))) as listener,
                inside(net.server.name, lambda port=port: socket.create_connection(("127.0.0.1", port))) as client,
                listener.accept()[0] as child,
            ):
                client.sendall(bytes(size))
                assert child.recv(100) == bytes(size)
                child.sendall(b"back")
                assert client.recv(100) == b"back"
    (row,) = parsed(output)
    assert (row["request_bytes"], row["reply_bytes"], row["elsewhere_ns"]) == (10, 4, 0)


def test_packets(net):
    """With --packets each segment is a row with its fate."""
    with watching("layers", "--packets", "--json", *both(net)) as output:
        (connection,) = talk(net)
    rows = parsed(output)
    assert [(row["source_port"], row["length"], row["fate"]) for row in rows] == [
        (port, PLAN.size, "delivered") for _ in range(3) for port in (connection.client.flow.lport, 9999)
    ]
    assert all(row[f"{name}_ns"] is not None for row in rows for name in LAYERS[1:])


def test_in_order_and_from_a_recording(net, tmp_path):
    """The timestamps of all sources are in the order of the path of a request, and a saved recording is read."""
    with observe(net, PLAN, probes=["layers", "packets", "analyse"]) as observed:
        pass
    (connection,) = observed.connections
    request = exchanges(connection)[0].request
    events = [
        f"{stamp.host} {stamp.who} {stamp.what.split(':')[0].split(',')[0]}"
        for stamp in stamps(observed, connection)
        if request.first.enter_ns <= stamp.time_ns <= request.read.exit_ns
    ]
    path = [
        "client application send() called",
        "client system call sendto",
        "client TC egress",
        "client driver given to the driver",
        "server driver taken from the driver",
        "server XDP PSH",
        "server TC ingress",
        "server TCP",  # followed by the name of the attach point
        "server socket data ready",
        "server application recv() over",
    ]
    places = [
        next((number for number, event in enumerate(events) if event.startswith(step)), f"no {step}") for step in path
    ]
    assert places == sorted(places), events
    observed.recording.save(recording := tmp_path / "recording.npz")
    done = lab_command("layers", "--recording", str(recording), "--json", "--flow", connection.client.flow.laddr)
    assert len(done.stdout.splitlines()) == 3, done.stderr
    packets = lab_command("layers", "--recording", str(recording), "--packets")
    assert packets.stdout.count("delivered") == 6
    missing = lab_command("layers", "--recording", str(recording), "--flow", "192.0.2.9")
    assert (missing.returncode, missing.stdout.count("\n")) == (2, 1)
    assert f"give --flow one of {connection.client.flow.laddr}:{connection.client.flow.lport}" in missing.stderr


def files_in(folder):
    """Return the options that ask for both files, and a function that returns the number of requests in them."""
    trace, picture = folder / "trace.json", folder / "layers.svg"

    def requests():
        assert picture.stat().st_size > 10_000
        events = json.loads(trace.read_text())["traceEvents"]
        return sum(event["ph"] == "X" for event in events) / (2 * len(LAYERS))

    return ["--perfetto", str(trace), "--plot", str(picture)], requests


def test_files_of_a_recording_without_a_reader(net, tmp_path):
    """The reader of the output goes away before the first line, as `head -0` does: the files are complete."""
    with observe(net, PLAN, probes=["layers"]) as observed:
        pass
    observed.recording.save(recording := tmp_path / "recording.npz")
    files, requests = files_in(tmp_path)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "lab", "layers", "--recording", str(recording), *files]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
    assert requests() == PLAN.exchanges


def test_a_file_that_cannot_be_written(net, tmp_path):
    """One sentence and exit status 2, after the requests and their percentiles."""
    with observe(net, PLAN, probes=["layers"]) as observed:
        pass
    observed.recording.save(recording := tmp_path / "recording.npz")
    done = lab_command("layers", "--recording", str(recording), "--perfetto", "/dev/full")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "/dev/full cannot be written (No space left on device): free some space" in done.stderr
    assert f"{PLAN.exchanges} requests, microseconds:" in done.stdout


def test_files_of_a_live_tool_without_a_reader(net, tmp_path):
    """The reader of the output goes away after the first request: the tool ends, and the files have what it has seen."""
    files, requests = files_in(tmp_path)
    with started(sys.executable, "-m", "lab", "layers", *both(net), *files, ready="CLIENT") as process:
        talk(net)
        process.stdout.readline()
        process.stdout.close()
        talk(net)
        assert process.wait(HUNG_S) == 0
    assert requests() >= PLAN.exchanges


BAD = {
    "no flow": (["--flow", "nobody"], "`nobody` is no client"),
    "no folder for the trace": (
        ["--perfetto", "/nowhere/trace.json"],
        "/nowhere/trace.json cannot be written (No such file",
    ),
    "no recording": (["--recording", "/etc/hostname"], "is not a recording of this lab"),
    "files of segments": (["--packets", "--plot", "layers.png"], "--packets shows no requests"),
    "a peer's interface without the peer": (["-i", "lo", "--peer-interface", "eth0"], "give --peer-netns as well"),
    "no such peer": (["-i", "lo", "--peer-netns", "nowhere"], "there is no network namespace `nowhere`"),
}


def test_the_same_host_twice(net):
    """V1: an interface that is given twice, also by its only name, is an error that says so."""
    client = net.client.name
    for more in ((), ("-i", net.client.device.ifname), ("--peer-interface", net.client.device.ifname)):
        done = refuses(
            ["layers", "--netns", client, "--peer-netns", client, *more], "is observed already: leave them out"
        )
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_bad_input(arguments, sentence):
    """Wrong arguments give one sentence on standard error, exit status 2 and no output."""
    assert refuses(["layers", *arguments], sentence).stderr.count("\n") == 1


def test_a_flow_without_a_request():
    """A requested flow without a request is an error."""
    probes.require("layers")
    done = lab_command("layers", "-i", "lo", "--flow", "192.0.2.9:1", "--seconds", "0.1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "there is no request of" in done.stderr


def test_a_recording_of_another_version(net, tmp_path, monkeypatch):
    """A recording of another schema version is refused, and so is one without this probe."""
    with observe(net, Conversation(), probes=["states"]) as observed:
        pass
    observed.recording.save(other := tmp_path / "states.npz")
    monkeypatch.setattr("lab.recording.recording.SCHEMA", 1)
    observed.recording.save(old := tmp_path / "old.npz")
    for path, sentence in ((other, "has no events of the probe layers"), (old, "has schema version 1")):
        done = lab_command("layers", "--recording", str(path))
        assert (done.returncode, done.stdout) == (2, "")
        assert sentence in done.stderr


def test_interrupted(net):
    """Ctrl-C ends the tool with status 0, and it leaves nothing behind."""
    probes.require("layers")
    command = [sys.executable, "-m", "lab", "layers", *both(net)]
    with started(*command, ready="CLIENT") as process:
        held = belongings(process.pid)
        assert end(process) == 0
    assert len(held["programs"]) >= 9
    assert left_of(held) == NOTHING


@pytest.mark.parametrize("mechanism", ["fentry", "kprobe"])
def test_every_mechanism(mechanism):
    """The program compiles for each mechanism. If the kernel refuses to load or attach it, the tool reports that."""
    done = lab_command("layers", "-i", "lo", "--seconds", "0.1", env=os.environ | {"LAB_ATTACH": mechanism})
    assert done.returncode in {0, 2}
    assert "compile" not in done.stderr
    assert done.returncode == 0 or f"this kernel refuses the {mechanism}" in done.stderr
