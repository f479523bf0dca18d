"""The probe `duration` on real and scripted connections: its rows against the logs of both applications.

D1 to D4, L4 and S6 are rows of the corpus of known wrong numbers in docs/truth.md.
"""

import socket
import time

import numpy as np
import pytest
from support.made.duration import STRAYS, WHOLE
from support.stamped_sockets import FAMILY, NOBODY, accept

from lab.arrays import UNKNOWN
from lab.ebpf.interface import Device
from lab.linux.netns import inside
from lab.linux.tcp_counters import tcp_sent
from lab.observation import Observed
from lab.probes.duration.measure import lifetimes
from lab.recording.recorder import record
from lab.tcp import Ended, Flow, Side, address_text
from lab.timeline import Connection
from lab.traffic.crafted.script_player import play
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.traffic.demo.stamped_socket import StampedSocket
from lab.units import MS, SECOND
from lab.verdict import Bracket

both_versions = pytest.mark.parametrize("version", [4, 6])


def converse_observed(lab, conversation, **how):
    """Hold conversations with the probe attached, and judge it; return the observation."""
    observed = lab.converse(conversation, probes=("duration",), **how)
    lab.judge("duration", observed)
    return observed


def rows_of(observed, host=None):
    """Return the rows of one host's interface, or of all interfaces."""
    rows = lifetimes(observed.recording.events["duration"], observed.end_ns)
    return rows if host is None else rows[rows["ifindex"] == host.ifindex]


@both_versions
@pytest.mark.parametrize("closer", ["client", "server", "both"])
def test_plain_close(lab, version, closer):
    """D1: the duration includes the handshake. D3: it ends at the first FIN, from either side or both at once."""
    observed = converse_observed(lab, Conversation(closer=closer, hold_ns=10 * MS), version=version, connections=5)
    rows = rows_of(observed)
    assert len(rows) == 2 * 5
    assert set(rows["ended"]) == {Ended.FIN}
    assert (rows["synack_ns"] > 0).all()
    assert (rows["duration_ns"] >= rows["synack_ns"] + 10 * MS).all()


@both_versions
def test_half_close(lab, version):
    """D3: the duration ends at the first FIN; the second FIN, much later, is reported in addition."""
    observed = converse_observed(lab, Conversation(how="shutdown", linger_ns=150 * MS), version=version)
    for row in rows_of(observed):
        assert row["second_fin_ns"] - row["duration_ns"] >= 150 * MS


@both_versions
@pytest.mark.parametrize("closer", ["client", "server", "both"])
def test_reset(lab, version, closer):
    """D2: a RST ends a connection, and its sender is reported."""
    observed = converse_observed(lab, Conversation(closer=closer, how="rst", hold_ns=5 * MS), version=version)
    assert set(rows_of(observed)["ended"]) == {Ended.RST}


@both_versions
@pytest.mark.parametrize("source_port", [0, 40404])
def test_refused(lab, version, source_port):
    """D2: a RST instead of a SYN-ACK is a refusal."""
    how = {"serve": False, "source_port": source_port, "connections": 1 if source_port else 5}
    observed = converse_observed(lab, Conversation(), version=version, **how)
    assert set(rows_of(observed)["ended"]) == {Ended.REFUSED}


def test_200_connections_at_once(lab):
    """200 connections are open at the same time; each is reported once per interface, each time in its bracket."""
    with lab.observe(Conversation(), probes=("duration",), connections=200, pause=True) as observed:
        observed.demo.await_pause()
        observed.demo.resume()
    lab.judge("duration", observed)
    assert len(rows_of(observed)) == 400


@both_versions
def test_flow_reused_at_once(lab, version):
    """The same flow is used 30 times in a row: there are 30 connections, each with its own start."""
    conversation = Conversation(closer="server", exchanges=0)
    how = {"connections": 30, "concurrency": 1, "source_port": 40404}
    observed = converse_observed(lab, conversation, version=version, **how)
    rows = rows_of(observed, lab.net.client)
    assert len(rows) == 30
    assert set(rows["sport"]) == {40404}
    assert (np.diff(rows["start_ns"]) > rows["duration_ns"][:-1]).all()


@pytest.mark.parametrize(("port", "source_port"), [(80, 20480), (1, 65535)])
def test_ports_in_the_right_order(lab, port, source_port):
    """S6: ports that are each other's byte swap, and the smallest and largest port, are reported correctly."""
    observed = converse_observed(lab, Conversation(), port=port, source_port=source_port)
    assert {(int(row["sport"]), int(row["dport"])) for row in rows_of(observed)} == {(source_port, port)}


@both_versions
def test_loopback(lab, version):
    """On loopback each packet passes twice and is counted once."""
    host = lab.net.client
    address = ({4: "127.0.0.1", 6: "::1"}[version], 9999)
    with record("duration", devices=[Device.find("lo", host.name)]) as recorder:
        listener = inside(host.name, lambda: socket.create_server(address, family=FAMILY[version]))
        client = StampedSocket("client", inside(host.name, lambda: socket.socket(FAMILY[version])))
        with listener:
            client.connect(address)
            server = accept(listener)
        client.sleep(5 * MS)
        client.close()
        server.recv_until_end()
        server.close()
        end_ns = lab.net.quiesce()
    connection = Connection(client.timeline, server.timeline)
    observed = Observed(lab.net.inodes, recorder.recording, [connection], end_ns)
    lab.judge("duration", observed)
    (row,) = rows_of(observed)
    assert (row["syn_retransmissions"], row["fin_retransmissions"]) == (0, 0)


def retransmitted(host):
    """Return the kernel's own count of the host's retransmitted segments."""
    return tcp_sent(host.name).retransmitted


@both_versions
def test_no_answer(lab, version):
    """D2: an attempt without an answer is a timeout, with the number of its SYNs and an unknown duration."""
    lab.net.client.knows(NOBODY[version], lab.net.server.mac)
    lab.net.client.sysctl("ipv4/tcp_syn_retries", 1)
    with record("duration", devices=lab.net.devices) as recorder:
        client = StampedSocket("client", inside(lab.net.client.name, lambda: socket.socket(FAMILY[version])))
        assert not client.connect((NOBODY[version], 9999))
        client.close()
        end_ns = lab.net.quiesce()
    assert client.timeline.find("connect").error == "ETIMEDOUT"
    observed = Observed(lab.net.inodes, recorder.recording, [Connection(client.timeline, None)], end_ns)
    lab.judge("duration", observed)
    given_up = lifetimes(recorder.recording.events["duration"], end_ns + 6 * SECOND, syn_timeout_ns=5 * SECOND)
    again = retransmitted(lab.net.client)
    assert again >= 1
    assert [(Ended(row["ended"]), int(row["syn_retransmissions"])) for row in given_up] == [(Ended.TIMEOUT, again)] * 2
    assert (given_up["last_syn_ns"] - given_up["start_ns"] >= 990 * MS).all()


def test_first_syn_lost(lab, lost_syn):
    """D1: the duration starts at the first SYN, even if it was lost; retransmissions equal the kernel's count."""
    observed, again = lost_syn
    lab.judge("duration", observed)
    (row,) = rows_of(observed)
    assert again >= 2
    assert row["syn_retransmissions"] == again
    assert row["synack_ns"] >= 1 * SECOND
    assert row["duration_ns"] >= row["synack_ns"] + 20 * MS


def test_attached_in_the_middle(lab):
    """L4: a connection that was open before has a known end and an unknown start."""
    with converse(lab.net, Conversation(), pause=True) as demo:
        demo.await_pause()
        with record("duration", devices=lab.net.devices) as recorder:
            demo.resume()
            end_ns = lab.net.quiesce()
    (flow,) = (connection.client.flow for connection in demo.connections)
    rows = lifetimes(recorder.recording.events["duration"], end_ns)
    assert len(rows) == 2
    for row in rows:
        assert Ended(row["ended"]) is Ended.FIN
        assert {int(row[name]) for name in ("start_ns", "duration_ns", "second_fin_ns", "synack_ns")} == {UNKNOWN}
        assert not row["roles_known"]
        # The client has closed first, so it is on the left.
        ends = [(address_text(row[f"{side}addr"].tobytes()), int(row[f"{side}port"])) for side in "sd"]
        assert Flow(*ends[0], *ends[1]) == flow


@pytest.mark.parametrize("how", [{"version": 4}, {"version": 6}, {"version": 4, "vlan": 7}], ids=str)
@pytest.mark.parametrize("options", [False, True])
def test_every_script_on_the_wire(lab, how, options):
    """D1 to D4: crafted frames of every script are measured correctly at both interfaces.

    The scripts have simultaneous open and close, half-close, retransmitted SYN and FIN, every kind of RST, SYN cookies
    and Fast Open, also with IP options, extension headers and a VLAN tag. Their addresses belong to no host.
    """
    with record("duration", devices=lab.net.devices) as recorder:
        played = play(lab.net, [script.words for script in WHOLE], options=options, **how)
    observed = Observed(lab.net.inodes, recorder.recording, end_ns=time.monotonic_ns())
    judge, checks = observed.judge(lab.scenario, "duration"), []
    rows = {(int(row["ifindex"]), int(row["sport"])): row for row in rows_of(observed)}
    assert len(rows) == len(rows_of(observed)) == 2 * len(WHOLE)
    for script, (flow, _, times) in zip(WHOLE, played, strict=True):
        for host in (lab.net.client, lab.net.server):
            row, subject = rows[host.ifindex, flow.lport], f"{script.words} ({host.ifindex})"
            ended = Ended.OPEN if script.ended is Ended.TIMEOUT else script.ended
            checks.append(judge.equal(subject, "ended by", ended.name, Ended(row["ended"]).name))
            closed_first = Side(row["closed_first"]).name
            checks.append(judge.equal(subject, "closed first by", script.closed_first.name, closed_first))
            checks.append(judge.equal(subject, "SYNs again", script.syns_again, int(row["syn_retransmissions"])))
            checks.append(judge.equal(subject, "FINs again", script.fins_again, int(row["fin_retransmissions"])))
            checks.append(judge.equal(subject, "VLAN", how.get("vlan", 0), int(row["vlan"])))
            ends = [(address_text(row[f"{side}addr"].tobytes()), int(row[f"{side}port"])) for side in "sd"]
            checks.append(judge.equal(subject, "flow", str(flow), str(Flow(*ends[0], *ends[1]))))
            for name, step in (("duration_ns", script.end), ("second_fin_ns", script.second_fin)):
                if step is None:
                    checks.append(judge.equal(subject, name, UNKNOWN, int(row[name])))
                    continue
                low_ns = times[step].before_ns - times[0].passed_ns
                high_ns = times[step].passed_ns - times[0].before_ns
                bracket = Bracket.middle(low_ns, high_ns)
                checks.append(judge.duration(subject, name, bracket, int(row[name])))
    lab.check(checks)


@both_versions
def test_strays_on_the_wire(lab, version):
    """D5: a RST and a FIN of an earlier connection, soon after the SYN, do not end the connection.

    On a machine so slow that they come when 400 Gbit/s have carried 4 GiB, they can be the connection's own.
    """
    with record("duration", devices=lab.net.devices) as recorder:
        ((_, _, times),) = play(lab.net, [script.words for script in STRAYS], version)
    observed = Observed(lab.net.inodes, recorder.recording, end_ns=time.monotonic_ns())
    judge, checks = observed.judge(lab.scenario, "duration"), []
    (script,) = STRAYS
    slow = times[3].passed_ns - times[0].before_ns > ((1 << 32) - 200) // 50
    expected = [script.ended.name, Ended.RST.name] if slow else [script.ended.name]
    for row in rows_of(observed):
        subject = f"{script.words} ({row['ifindex']})"
        checks.append(judge.one_of(subject, "ended by", expected, Ended(row["ended"]).name))
        first = 2 if slow else script.end
        low_ns, high_ns = times[first].before_ns - times[0].passed_ns, times[script.end].passed_ns - times[0].before_ns
        checks.append(judge.duration(subject, "duration_ns", Bracket.middle(low_ns, high_ns), int(row["duration_ns"])))
    assert len(checks) == 2 * 2
    lab.check(checks)
