"""`--metrics` of the live tools: what a Prometheus server reads is what `--json` prints, and what happened."""

import argparse
import importlib
import socket
import struct
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from decimal import Decimal

import numpy as np
import pytest
from support.exporters import exporting, served
from support.processes import parsed, refuses, watching

from lab.live.metrics import MOST_SERIES
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.segment_parser import retransmitted
from lab.network.topology import topology
from lab.observation import observe
from lab.probes.analyse.measure import joined
from lab.probes.duration.measure import lifetimes
from lab.probes.layers.metrics import NOT_SERVED
from lab.probes.layers.requests import requests_of
from lab.probes.layers.stages import LAYERS
from lab.probes.states.measure import transitions
from lab.traffic.crafted.frames import datagrams
from lab.traffic.crafted.send import send
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.truth.requests import exchanges
from lab.units import MS, SECOND

PLAN = Conversation(exchanges=3, before_reply_ns=5 * MS, hold_ns=20 * MS)
NO_OPTIONS = argparse.Namespace(**dict.fromkeys(NOT_SERVED))
MEASURED = {
    "states": lambda observed: transitions(observed.recording.events["states"]),
    "duration": lambda observed: lifetimes(observed.recording.events["duration"], observed.end_ns),
    "layers": requests_of,
    "analyse": lambda observed: joined(observed.recording.events["analyse"]),
}
"""Where a probe's rows with times come from."""


def times_of_states(row):
    """Yield each time of a row of `lab states --json`, with its metric and labels."""
    yield "tcp_state_duration_seconds", {"state": row["oldstate"]}, row["duration_ns"]


def times_of_duration(row):
    """Yield each time of a row of `lab duration --json`, with its metric and labels."""
    yield "tcp_connection_duration_seconds", {"ended": row["ended"]}, row["duration_ns"]
    yield "tcp_connection_handshake_seconds", {}, row["synack_ns"]


def times_of_layers(row):
    """Yield each time of a row of `lab layers --json`, with its metric and labels."""
    yield "tcp_request_seconds", {}, row["total_ns"]
    yield "tcp_request_layer_seconds", {"layer": "elsewhere"}, row["elsewhere_ns"]
    for leg in ("request", "reply"):
        for layer in LAYERS:
            yield "tcp_request_layer_seconds", {"leg": leg, "layer": layer}, row[f"{leg}_{layer}_ns"]


def times_of_analyse(row):
    """Yield each time of a row of `lab analyse --json`, with its metric and labels."""
    if row["step"] == "changed":
        yield "tcp_connect_seconds", {"role": row["role"]}, row["latency_ns"]
    else:
        yield "tcp_call_seconds", {"func": row["func"]}, row["latency_ns"]


def talk(net, **how):
    """Hold three conversations to their end; return the connections."""
    with converse(net, PLAN, connections=3, **how) as demo:
        pass
    net.quiesce()
    return demo.connections


@contextmanager
def both(net, tool, *options):
    """Yield a tool that serves metrics, and what it has printed with `--json` about the same traffic."""
    with exporting(tool, *options) as exporter:
        with watching(tool, "--json", *options) as output:
            talk(net)
        yield exporter, parsed(output)


@pytest.mark.parametrize(
    ("probe", "times_of"),
    [(name.removeprefix("times_of_"), it) for name, it in globals().items() if name.startswith("times_of_")],
)
def test_each_time_is_in_its_bucket(lab, probe, times_of):
    """The buckets and the sum of each histogram are those of the times that `--json` prints for the same rows."""
    observed = lab.converse(PLAN, connections=3, probes=[probe])
    lab.judge(probe, observed)
    rows = MEASURED[probe](observed)
    text = importlib.import_module(f"lab.probes.{probe}.text")
    extra = ("eth0",) if probe == "duration" else ()
    times = defaultdict(list)
    for row in text.as_dicts(rows, *extra):
        for name, labels, time_ns in times_of(row):
            if time_ns is not None:
                times[name, tuple(labels.items())].append(time_ns)
    samples = served(importlib.import_module(f"lab.probes.{probe}.metrics").families(NO_OPTIONS), rows)
    assert len(times) >= 2
    for (name, labels), its in times.items():
        assert samples.total(f"{name}_count", **dict(labels)) == len(its)
        assert round(samples.total(f"{name}_sum", **dict(labels)) * SECOND) == sum(its)
        for bound in samples.bounds(name):
            within = sum(time_ns <= Decimal(bound) * SECOND for time_ns in its)
            assert samples.total(f"{name}_bucket", le=bound, **dict(labels)) == within, (name, labels, bound)


def test_states(net):
    """The time in ESTABLISHED is the applications', and each connection is one transition of each kind."""
    with exporting("states", "--netns", net.client.name) as exporter:
        connections = talk(net)
        samples = exporter.scrape_until(3, "tcp_state_transitions_total", newstate="TIME_WAIT")
    assert samples.total("tcp_state_transitions_total") == 3 * 5
    ends = [(it.client.find("connect"), it.client.find("close")) for it in connections]
    shortest = sum(close.enter_ns - connect.exit_ns for connect, close in ends)
    longest = sum(close.exit_ns - connect.enter_ns for connect, close in ends)
    established_ns = samples.total("tcp_state_duration_seconds_sum", state="ESTABLISHED") * SECOND
    assert shortest <= established_ns <= longest


def test_the_chosen_connections_are_counted(net):
    """Those of the other IP version came before, and are not counted."""
    with exporting("states", "--netns", net.client.name, "-6") as exporter:
        talk(net, version=4)
        talk(net, version=6)
        samples = exporter.scrape_until(3, "tcp_state_transitions_total", newstate="TIME_WAIT")
    assert samples.total("tcp_state_transitions_total") == 3 * 5


def test_the_changes_of_the_chosen_process_are_counted(net):
    """A segment makes each connection ESTABLISHED, and no process: that change is not among them."""
    comm = talk(net)[0].client.comm
    with exporting("states", "--netns", net.client.name, "--comm", "none", comm) as exporter:
        talk(net)
        samples = exporter.scrape_until(3, "tcp_state_transitions_total", newstate="TIME_WAIT")
    assert samples.total("tcp_state_transitions_total") == 3 * 4
    assert samples.total("tcp_state_transitions_total", newstate="ESTABLISHED") == 0


def test_retransmits():
    """As many segments and bytes as were sent again on the wire, by its log."""
    with topology(Relay()) as net, exporting("retransmits", "--netns", net.client.name) as exporter:
        net.conditions(Conditions(drop=(3, 9, 10)), Conditions())
        with observe(net, PLAN, connections=3, probes=["retransmits"]) as observed:
            pass
        left = [wire.streams[0].left for _, wire in observed.with_wire()]
        again = np.concatenate([segments[retransmitted(segments)] for segments in left])
        assert len(again) >= 1
        samples = exporter.scrape_until(len(again), "tcp_retransmitted_segments_total")
        assert samples.total("tcp_retransmitted_bytes_total") == again["payload"].sum()


def test_drops(net):
    """A SYN without a socket is one packet, under the kernel's reason."""
    with exporting("drops", "--netns", net.server.name) as exporter:
        with converse(net, Conversation(), serve=False):
            pass
        exporter.scrape_until(1, "tcp_dropped_packets_total", reason="NO_SOCKET")


def test_duration(net):
    """Each connection is counted by its end; the sum of their durations is the applications'."""
    with exporting("duration", "--netns", net.client.name) as exporter:
        ends = [(it.client.find("connect"), it.client.find("close")) for it in talk(net)]
        samples = exporter.scrape_until(3, "tcp_connections_ended_total", ended="fin")
    assert samples.total("tcp_connection_duration_seconds_count", ended="fin") == 3
    duration_ns = samples.total("tcp_connection_duration_seconds_sum", ended="fin") * SECOND
    assert sum(close.enter_ns - connect.exit_ns for connect, close in ends) <= duration_ns
    assert duration_ns <= sum(close.exit_ns - connect.enter_ns for connect, close in ends)


def test_layers(net):
    """As many requests as the applications made; the server's time is theirs, and all layers add up to the whole."""
    with exporting("layers", "--netns", net.client.name, "--peer-netns", net.server.name) as exporter:
        every = [exchange for connection in talk(net) for exchange in exchanges(connection)]
        samples = exporter.scrape_until(len(every), "tcp_requests_total", kind="request")
    name = "tcp_request_layer_seconds_sum"
    application_ns = samples.total(name, leg="reply", layer="application", host="server") * SECOND
    assert sum(it.application.low for it in every) <= application_ns <= sum(it.application.high for it in every)
    whole = [round(samples.total(it) * SECOND) for it in (name, "tcp_request_seconds_sum")]
    assert whole[0] == whole[1]


def test_flows(net):
    """Packets and bytes of each pair and direction are those that `--json` prints."""
    with both(net, "flows", "--netns", net.client.name, "--interval", "0.1") as (exporter, rows):
        last = [row for row in rows if row["time_ns"] == rows[-1]["time_ns"] and row["protocol"] == "TCP"]
        assert len(last) == 2
        for row in last:
            pair = {name: row[name] for name in ("source_address", "destination_address", "direction", "protocol")}
            samples = exporter.scrape_until(row["packets"], "network_flow_packets_total", **pair)
            assert samples.total("network_flow_bytes_total", **pair) == row["bytes"]


def test_packets(net):
    """Packets and bytes are those that `--json` prints."""
    with both(net, "packets", "--mode", "tc", "--netns", net.server.name) as (exporter, rows):
        samples = exporter.scrape_until(len(rows), "network_received_packets_total", protocol="TCP")
        assert samples.total("network_received_bytes_total") == sum(row["frame_length"] for row in rows)


def test_rtt(net):
    """The kernel's counts are in the exported buckets, and none is missing."""
    options = ("--netns", net.client.name, "--raw", "--raddr-hist", "--interval", "0.1")
    with both(net, "rtt", *options) as (exporter, rows):
        counted = Counter()
        for row in rows:
            for bucket in row["buckets"]:
                counted[bucket["high_us"]] += bucket["count"]
        assert counted.total() > 3 * 3
        peer = {"remote_address": net.server.ipv4}
        samples = exporter.scrape_until(counted.total(), "tcp_rtt_seconds_count", **peer)
        assert round(samples.total("tcp_rtt_seconds_sum", **peer) * 1e6) == sum(row["sum_us"] for row in rows)
        for bound in samples.bounds("tcp_rtt_seconds"):
            within = sum(count for high_us, count in counted.items() if high_us <= Decimal(bound) * 10**6)
            assert samples.total("tcp_rtt_seconds_bucket", le=bound, **peer) == within


def test_analyse(net):
    """As many steps as `--json` prints, by step and function."""
    with exporting("analyse", "client", "--netns", net.client.name) as exporter:
        with watching("analyse", "client", "--json", "--netns", net.client.name) as output:
            talk(net)
        steps = Counter((row["step"], row["func"]) for row in parsed(output))
        samples = exporter.scrape_until(steps.total(), "tcp_steps_total")
        for (step, func), count in steps.items():
            assert samples.total("tcp_steps_total", step=step, func=func) == count


def test_more_pairs_than_series(net):
    """Pairs beyond the limit are added up in one series; no packet is missing, and the tool says so once."""
    (frame,) = datagrams([0])
    sources = (0x0A000000 + number for number in range(MOST_SERIES + 100))
    frames = [frame[:26] + source.to_bytes(4) + frame[30:] for source in sources]
    with exporting("flows", "--netns", net.client.name, "--interval", "0.1") as exporter:
        send(net.client.name, frames)
        samples = exporter.scrape_until(100, "network_flow_packets_total", source_address="other")
    assert samples.total("network_flow_packets_total", protocol="UDP") == MOST_SERIES
    assert exporter.errors.count("network_flow_packets has more than 5000 label sets") == 1
    assert exporter.errors.count("label sets") == 2


@pytest.mark.parametrize(("address", "host"), [(":0", "127.0.0.1"), ("127.0.0.2:0", "127.0.0.2"), ("[::1]:0", "[::1]")])
def test_addresses(address, host):
    """Without an address the loopback is served; the losses are there from the start."""
    with exporting("states", address=address) as exporter:
        assert exporter.url.startswith(f"http://{host}:")
        values = exporter.scrape().values
        losses = {dict(labels)["reason"]: value for (name, labels), value in values.items() if "lost" in name}
        assert losses == {"no_room": 0, "not_run": 0}


def test_clients_that_go_away(net):
    """A client that resets its connection, or sends nothing, neither ends the tool nor makes it print a traceback."""
    with exporting("states", "--netns", net.client.name) as exporter, ExitStack() as still_open:
        port = int(exporter.url.split(":")[2].removesuffix("/metrics"))
        for data in (b"", b"GET /metrics", b"GET /metrics HTTP/1.0\r\n\r\n", bytes(100), b"?\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.send(data)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        still_open.enter_context(socket.create_connection(("127.0.0.1", port)))
        talk(net)
        exporter.scrape_until(3 * 5, "tcp_state_transitions_total")
    assert exporter.errors == ""


@pytest.mark.parametrize(
    "address", ["9435", "web:9435", "::1:9435", "[127.0.0.1]:9435", "[::1]", ":http", ":65536", "127.0.0.1:", ""]
)
def test_wrong_addresses(address):
    """One sentence that shows how to write it."""
    refuses(["states", "--metrics", address], f"`{address}` is not an address with a port: write it like")


def test_a_port_in_use():
    """One sentence, and the status of a user's error."""
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        refuses(
            ["states", "--metrics", f":{port}", "--seconds", "60"],
            f"127.0.0.1:{port} cannot be served (Address already",
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["states", "--json"], "not allowed with argument"),
        (["flows", "-i", "lo", "--connections"], "leave --connections and --mac out"),
        (["layers", "-i", "lo", "--summary", "--interval", "3"], "leave out --summary and --interval"),
    ],
)
def test_options_that_do_not_fit(words, message):
    """One sentence."""
    refuses([*words, "--metrics", ":0", "--seconds", "60"], message)
