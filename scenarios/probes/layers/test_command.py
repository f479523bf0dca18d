"""`lab layers` as a user runs it: requests and segments, on both hosts, on one, on loopback; its files; and how it ends."""

import csv
import io
import json
import os
import socket
import sys

import pytest
from support.processes import NOTHING, belongings, end, lab_command, left_of, parsed, started, watching

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
    """Hold conversations, and return their connections when they are over."""
    with converse(net, PLAN, **how) as demo:
        pass
    net.quiesce()
    return demo.connections


def both(net):
    """Return the options that name both hosts."""
    return "--netns", net.client.name, "--peer-netns", net.server.name


def test_requests(lab, tmp_path):
    """Every request is a row whose layers add up, within what the applications have stamped; and the files are there."""
    files = ("--perfetto", str(tmp_path / "trace.json"), "--plot", str(tmp_path / "layers.svg"))
    with watching("layers", "--json", *both(lab.net), *files) as output:
        connections = talk(lab.net, connections=3, version=6)
    rows = parsed(output)
    judge, checks = Judge(lab.scenario, "layers", "live"), []
    for connection in connections:
        flow = connection.client.flow
        mine = [row for row in rows if (row["caddr"], row["cport"]) == (flow.laddr, flow.lport)]
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
    """Two lines a request, percentiles at the end, and the waterfall of one."""
    with watching("layers", *both(net), "--waterfall", "--histogram") as output:
        talk(net)
    errors, text = output
    assert not errors
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["CLIENT", "(us)"]
    assert [line.split()[0] for line in lines[2:7:2]] == ["reply"] * 3
    assert "3 requests, microseconds:" in text
    assert "request  server  wake-up" in text
    assert "reply, application (server)" in text


def test_one_host(net):
    """Of one host its own layers are told; the rest is elsewhere, and no zero."""
    with watching("layers", "--csv", "--netns", net.client.name) as output:
        talk(net)
    rows = list(csv.DictReader(io.StringIO(output[1])))
    assert len(rows) == 3
    for row in rows:
        assert row["request_wire_ns"] == row["reply_application_ns"] == ""
        assert int(row["elsewhere_ns"]) > 5 * MS
        assert int(row["reply_tcp_ns"]) > 0


def test_loopback(net):
    """On loopback both ends are seen, and requests of another port are not."""
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
    """With --packets each segment is a row, with what became of it."""
    with watching("layers", "--packets", "--json", *both(net)) as output:
        (connection,) = talk(net)
    rows = parsed(output)
    assert [(row["sport"], row["length"], row["fate"]) for row in rows] == [
        (port, PLAN.size, "delivered") for _ in range(3) for port in (connection.client.flow.lport, 9999)
    ]
    assert all(row[f"{name}_ns"] is not None for row in rows for name in LAYERS[1:])


def test_in_order_and_from_a_recording(net, tmp_path):
    """What XDP, TC, drivers, TCP, sockets and applications say of one request stands in one order; and a recording is read again."""
    with observe(net, PLAN, probes=["layers", "packets", "analyse"]) as observed:
        pass
    (connection,) = observed.connections
    request = exchanges(connection)[0].request
    told = [
        f"{stamp.host} {stamp.who} {stamp.what.split(':')[0].split(',')[0]}"
        for stamp in stamps(observed, connection)
        if request.first.enter_ns <= stamp.time_ns <= request.read.exit_ns
    ]
    way = [
        "client application send() called",
        "client system call sendto",
        "client TC egress",
        "client driver given to the driver",
        "server driver taken from the driver",
        "server XDP PSH",
        "server TC ingress",
        "server TCP",  # by the name of the function that is attached to
        "server socket data ready",
        "server application recv() over",
    ]
    places = [next((number for number, it in enumerate(told) if it.startswith(step)), f"no {step}") for step in way]
    assert places == sorted(places), told
    observed.recording.save(path := tmp_path / "recording.npz")
    done = lab_command("layers", "--recording", str(path), "--json", "--flow", connection.client.flow.laddr)
    assert len(done.stdout.splitlines()) == 3, done.stderr
    packets = lab_command("layers", "--recording", str(path), "--packets")
    assert packets.stdout.count("delivered") == 6
    missing = lab_command("layers", "--recording", str(path), "--flow", "192.0.2.9")
    assert (missing.returncode, missing.stdout.count("\n")) == (2, 1)
    assert f"there are some of {connection.client.flow.laddr}:{connection.client.flow.lport}" in missing.stderr


BAD = {
    "no flow": (["--flow", "nobody"], "`nobody` is no client"),
    "no folder for the trace": (["--perfetto", "/nowhere/trace.json"], "the trace cannot be written to /nowhere"),
    "no recording": (["--recording", "/etc/hostname"], "is not a recording of this lab"),
    "files of segments": (["--packets", "--plot", "layers.png"], "leave one of them out"),
    "a peer's interface without the peer": (["-i", "lo", "--peer-interface", "eth0"], "give --peer-netns as well"),
    "no such peer": (["-i", "lo", "--peer-netns", "nowhere"], "there is no network namespace `nowhere`"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_bad_input(arguments, sentence):
    """One sentence on standard error, exit status 2."""
    done = lab_command("layers", *arguments)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_flow_without_a_request():
    """Who asks for one flow is told that nothing was seen of it."""
    probes.require("layers")
    done = lab_command("layers", "-i", "lo", "--flow", "192.0.2.9:1", "--seconds", "0.1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "there is no request of" in done.stderr


def test_a_recording_of_another_version(net, tmp_path, monkeypatch):
    """A recording that another version of the lab has made is refused, and so is one without this probe."""
    with observe(net, Conversation(), probes=["states"]) as observed:
        pass
    observed.recording.save(other := tmp_path / "states.npz")
    monkeypatch.setattr("lab.ebpf.recording.SCHEMA", 1)
    observed.recording.save(old := tmp_path / "old.npz")
    for path, sentence in ((other, "has nothing of the probe layers"), (old, "has schema version 1")):
        done = lab_command("layers", "--recording", str(path))
        assert (done.returncode, done.stdout) == (2, "")
        assert sentence in done.stderr


def test_interrupted(net):
    """Ctrl-C ends it with the percentiles, and nothing of it is left."""
    probes.require("layers")
    command = [sys.executable, "-m", "lab", "layers", *both(net)]
    with started(*command, ready="CLIENT") as process:
        held = belongings(process.pid)
        assert end(process) == 0
    assert len(held["programs"]) >= 9
    assert left_of(held) == NOTHING


@pytest.mark.parametrize("mechanism", ["fentry", "kprobe"])
def test_every_mechanism(mechanism):
    """Each alternative is a program that compiles; a kernel may refuse to load or attach it, and then the tool says so."""
    done = lab_command("layers", "-i", "lo", "--seconds", "0.1", env=os.environ | {"LAB_ATTACH": mechanism})
    assert done.returncode in {0, 2}
    assert "compile" not in done.stderr
    assert done.returncode == 0 or f"this kernel refuses the {mechanism}" in done.stderr
