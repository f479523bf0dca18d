"""The layers of a request against the truth: a delay caused in one place appears in one layer and in no other."""

import os

import pytest
from support.cpu_hog import hog
from support.injected_delays import SIZE, Delays, inject, verdicts
from support.lockstep import conversing

from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.segment_parser import belongs
from lab.network.topology import topology
from lab.probes.layers.judge import judge_request
from lab.probes.layers.requests import requests
from lab.probes.layers.stages import FATES, LAYERS, Stages, Stop
from lab.recording.recorder import record
from lab.traffic.demo.conversation import Conversation
from lab.truth.requests import exchanges
from lab.units import MS
from lab.verdict import Bracket, Judge


@pytest.fixture(scope="module")
def injected():
    """Return stages, injected delays and recording of one connection of each IP version."""
    with topology(Relay()) as net, hog() as cpu_hog:
        # Keep the relay off the processor of the hog: its softirqs carry the frames to the server.
        os.sched_setaffinity(net.link.pid, os.sched_getaffinity(0))
        with record("layers", devices=net.devices) as recorder:
            delays = {version: inject(net, version, cpu_hog) for version in (4, 6)}
            net.quiesce()
        return Stages(recorder.recording.events["layers"], net.inodes), delays, recorder.recording


@pytest.mark.parametrize("version", [4, 6])
def test_a_delay_is_in_its_layer_and_nowhere_else(lab, injected, version):
    """Each delay is in its own layer and in no other.

    Token bucket: qdisc. Wire: wire. Late server or client: queue. Thinking server: application. CPU hog: wake-up.
    """
    stages, delays, recording = injected
    judge = Judge(lab.scenario, "layers", ", ".join(recording.attach_points["layers"]), recording.missing("layers"))
    checks = lab.check(verdicts(judge, stages, *delays[version]))
    assert sum(check.quantity.startswith("all but") for check in checks) == len(delays[version][0]) == 24


def test_a_request_that_arrives_after_the_hog_has_ended():
    """Its reader was not delayed, so another request is sent."""
    with topology(Relay()) as net, hog() as it, conversing(net) as talk:
        net.conditions(Conditions(drop=(1, 2)), Conditions())
        _, _, least_ns = Delays(net, talk, 4, it).hogged_server(2 * MS)
    assert least_ns >= 2 * MS
    assert len(exchanges(*talk.connections)) >= 2


@pytest.mark.parametrize(
    ("conversation", "version"),
    [
        (Conversation(exchanges=20, think_ns=MS // 10), 4),
        (Conversation(exchanges=3, size_bits=8_000_000, before_recv_ns=2 * MS), 6),
        (Conversation(exchanges=2, how="rst", closer="server", before_reply_ns=MS), 6),
        (Conversation(exchanges=0), 4),
    ],
    ids=["small", "a million bytes", "reset", "no request"],
)
def test_conversations(lab, conversation, version):
    """Every request of several connections at once has layers inside the brackets of both applications."""
    lab.judge("layers", lab.converse(conversation, probes=["layers"], version=version, connections=6))


def test_a_lost_request(lab):
    """Retransmissions are the layer `resend`. Lost segments have the fate `lost`, and all transmissions are counted."""
    with topology(Relay()) as net:
        with record("layers", devices=net.devices) as recorder:
            with conversing(net) as talk:
                talk.exchange(SIZE)
                net.conditions(Conditions(drop=(1, 2)), Conditions())
                talk.exchange(SIZE)
            net.quiesce()
        log, stages = net.link.log(), Stages(recorder.recording.events["layers"], net.inodes)
    (connection,) = talk.connections
    flow = connection.client.flow
    segments = log.tcp(flow)
    mine = segments[belongs(segments, flow) & (segments["payload"] > 0)][1:]
    assert len(mine) >= 2
    arrived_ns = log.frames[mine["frame"]]["arrived_high_ns"].tolist()
    row = requests(stages, flow.rport).rows[1]
    exchange = exchanges(connection)[1]
    asked_ns = exchange.request.first.enter_ns
    layers = dict(zip(LAYERS, row["layers_ns"][0].tolist(), strict=True))
    judge = Judge(lab.scenario, "layers", "", 0)
    lab.check(
        [
            *judge_request(judge, exchange, row),
            judge.equal(str(flow), "times the request was sent", len(mine), int(row["sent"][0])),
            judge.duration(str(flow), "write", Bracket.early(0, arrived_ns[0] - asked_ns), layers["write"]),
            judge.duration(str(flow), "resend", Bracket.early(1, arrived_ns[-1] - asked_ns), layers["resend"]),
        ]
    )
    packets = stages.packets()
    fates = [FATES[fate] for fate in packets["fate"][(packets["sport"] == flow.lport)]]
    assert fates == ["delivered", *["lost"] * (len(mine) - 1), "delivered"]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("late", ["client", "server"])
def test_what_is_read_after_a_reset(lab, version, late):
    """Data that arrived before a RST is read after it, when `skc_num` of the socket is 0: its stages are complete."""
    with record("layers", devices=lab.net.devices) as recorder:
        with conversing(lab.net, version) as talk:
            reader, other = (talk.client, talk.server) if late == "client" else (talk.server, talk.client)
            if late == "client":
                talk.client.send(bytes(SIZE))
                talk.server.recv(SIZE)
            other.send(bytes(SIZE))
            other.reset_on_close()
            other.close()
            lab.net.quiesce()
            reader.recv(SIZE)
        lab.net.quiesce()
    stages = Stages(recorder.recording.events["layers"], lab.net.inodes)
    sent, read = (next(it for it in of.timeline.calls[::-1] if it.result == SIZE) for of in (other, reader))
    row = stages.packets()[-1]
    judge, flow = Judge(lab.scenario, "layers", ""), str(other.timeline.flow)
    lab.check(
        [
            judge.equal(flow, "bytes of the last read()", SIZE, int(row["read_length"])),
            judge.duration(
                flow, "written at", Bracket.late(sent.enter_ns, sent.exit_ns), int(row["stops"][Stop.WRITTEN])
            ),
            judge.duration(flow, "read at", Bracket.late(read.enter_ns, read.exit_ns), int(row["stops"][Stop.READ])),
        ]
    )
    if late == "client":
        ((exchange,), rows) = exchanges(*talk.connections), requests(stages, talk.client.timeline.flow.rport).rows
        lab.check(judge_request(judge, exchange, rows[0]))
