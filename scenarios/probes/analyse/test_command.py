"""`lab analyse` as a user runs it: its table, its JSON Lines, its CSV, its filters and its errors."""

import csv
import io
import os
import re

import pytest
from support import kernel_abilities
from support.processes import ends, lab_command, parsed, watching

from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import Endpoint, converse
from lab.units import MS

HEAD = "PID COMM IP SADDR DADDR DPORT TIMESTAMP(us) FUNC TCP_STATE TCP_DESCRIPTION TCP_CONNECT_TIME(us)"
both_versions = pytest.mark.parametrize("version", [4, 6])


def talk(net, conversation=None, **how):
    """Hold a conversation, and return its connections."""
    with converse(net, conversation or Conversation(), **how) as demo:
        pass
    net.quiesce()
    return demo.connections


def entered(rows):
    """Return the names of the system calls in the order in which they were entered."""
    return [row["step"] for row in rows if row["returns"] is False]


def of_one_flow(rows, flow):
    """Return true if all rows are of one connection. Addresses may be unknown until connect() chooses them."""
    addresses = [ends(row) for row in rows]
    bound = addresses.index(flow)
    agree = all(part in (None, whole) for early in addresses[:bound] for part, whole in zip(early, flow, strict=True))
    return agree and bound < [row["state"] for row in rows].index("ESTABLISHED") and set(addresses[bound:]) == {flow}


@both_versions
def test_both_sides(net, version):
    """A6: `client` shows the socket that connects, `service` the listener and its connection, in order of time."""
    with (
        watching("analyse", "client", "--json", "--netns", net.client.name) as client,
        watching("analyse", "service", "--json", "--netns", net.server.name) as service,
    ):
        (connection,) = talk(net, Conversation(think_ns=5 * MS), version=version)
    rows = parsed(client)
    assert entered(rows) == ["connect", "send", "receive", "close"]
    assert {row["pid"] for row in rows} == {connection.client.pid}
    assert of_one_flow(rows, connection.client.flow)
    assert {row["ip"] for row in rows} == {version}
    assert {row["role"] for row in rows} == {"client"}
    connect = connection.client.find("connect")
    (took,) = {row["connect_time_ns"] for row in rows if row["state"] == "FIN_WAIT1"}
    assert 0 < took <= connect.exit_ns - connect.enter_ns
    rows += parsed(service)
    served = [row for row in rows if row["role"] == "service"]
    assert entered(served).count("accept") == 1
    assert {row["pid"] for row in served} <= {connection.server.pid, None}
    for side in (rows[: -len(served)], served):
        times = [row["time_ns"] for row in side]
        assert times == sorted(times)


def test_a_long_wait_is_one_connection(net):
    """Steps in many batches are joined: all values of the socket are known 300 ms later and after the close."""
    with watching("analyse", "client", "--json", "--netns", net.client.name) as output:
        (connection,) = talk(net, Conversation(before_reply_ns=300 * MS, hold_ns=50 * MS))
    rows = parsed(output)
    assert {row["pid"] for row in rows} == {connection.client.pid}
    assert of_one_flow(rows, connection.client.flow)
    assert len({row["connect_time_ns"] for row in rows}) == 2  # unknown, then the same in all rows
    steps = [row["step"] for row in rows]
    assert {"changed", "arrived", "destroyed"} <= set(steps[steps.index("close") :])


@both_versions
def test_minimum_latency(net, version):
    """A2: the rows shown took at least the minimum, and their latencies are inside the brackets of the application."""
    with (
        watching("analyse", "client", "--json", "--netns", net.client.name) as every,
        watching("analyse", "client", "--min", "40ms", "--json", "--netns", net.client.name) as slow,
        watching("analyse", "client", "--min", "10s", "--json", "--netns", net.client.name) as slower,
    ):
        (connection,) = talk(
            net, Conversation(before_reply_ns=200 * MS, think_ns=60 * MS, exchanges=3), version=version
        )
    timed = [(row["step"], row["latency_ns"]) for row in parsed(every) if row["latency_ns"] is not None]
    shown = parsed(slow)
    assert "receive" in [row["step"] for row in shown]
    assert [row["step"] for row in shown] == [step for step, latency_ns in timed if latency_ns >= 40 * MS]
    assert min(row["latency_ns"] for row in shown) >= 40 * MS
    assert parsed(slower) == []
    receives = [call for call in connection.client.calls if call.name == "recv"][:3]
    for call, latency_ns in zip(receives, [it for step, it in timed if step == "receive"][:3], strict=True):
        assert 0 < latency_ns <= call.exit_ns - call.enter_ns


@both_versions
def test_filter_by_process(net, version):
    """`-p` shows the sockets of one process, including steps before accept(), when the owner was still unknown."""
    conversation = Conversation(before_accept_ns=50 * MS)
    arguments = [*conversation.arguments(), "--connections", "1"]
    with Endpoint("serve", net.server, [*arguments, "--address", net.server.address(version)]) as server:
        server.await_ready()
        with (
            watching("analyse", "service", "-p", str(server.pid), "--json", "--netns", net.server.name) as mine,
            watching("analyse", "service", "-p", str(os.getpid()), "--json", "--netns", net.server.name) as other,
        ):
            with Endpoint("connect", net.client, [*arguments, net.server.address(version)]) as client:
                client.finish()
            server.finish()
            net.quiesce()
    rows = parsed(mine)
    assert {row["pid"] for row in rows} == {server.pid}
    entered_states = [row["state"] for row in rows if row["step"] == "changed" and row["remote_port"]]
    assert entered_states == ["SYN_RECV", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK", "CLOSE"]
    assert other[1] == ""


@both_versions
def test_filter_by_local_port(net, version):
    """`-L` with the ephemeral port of the client shows every row, although connect() is entered before it is bound."""
    net.client.sysctl("ipv4/ip_local_port_range", "45001 45001")
    with (
        watching("analyse", "client", "-L", "45001", "--json", "--netns", net.client.name) as mine,
        watching("analyse", "client", "-L", "45002", "--json", "--netns", net.client.name) as other,
        watching("analyse", "service", "-L", "9999", "--json", "--netns", net.server.name) as service,
    ):
        talk(net, version=version)
    assert entered(parsed(mine)) == ["connect", "send", "receive", "close"]
    assert {row["local_port"] for row in parsed(mine)} == {45001}
    assert parsed(other) == []
    assert {row["local_port"] for row in parsed(service)} == {9999}


def test_connection_open_before_the_tool_started(net):
    """L4: a connection whose opening was not observed is shown by both sides, without a role and a connect time."""
    with converse(net, Conversation(), pause=True) as demo:
        demo.await_pause()
        with (
            watching("analyse", "client", "--json", "--netns", net.client.name) as client,
            watching("analyse", "service", "--json", "--netns", net.client.name) as service,
        ):
            demo.resume()
            net.quiesce()
    rows = parsed(client)
    assert [row["step"] for row in rows] == [row["step"] for row in parsed(service)]
    assert entered(rows) == ["close"]
    assert {row["role"] for row in rows} == {None}
    assert {row["connect_time_ns"] for row in rows} == {None}


def test_table(net):
    """The table has the documented columns, and `-` for unknown values."""
    with watching("analyse", "client", "--netns", net.client.name) as output:
        (connection,) = talk(net)
    head, *rows = output[1].splitlines()
    assert head.split() == HEAD.split()
    first = rows[0].split()
    assert first[0] == str(connection.client.pid)
    assert first[2] == "4"
    flow = [net.client.ipv4, net.server.ipv4, "9999"]
    assert all(
        shown in ("-", known) for shown, known in zip(first[3:6], flow, strict=True)
    )  # connect() has not returned
    assert rows[-1].split()[3:6] == flow
    assert first[-1] == "-"
    assert float(rows[-1].split()[-1]) > 0
    returned = r"data returned to the application, 375 bytes, after waiting \d+\.\d us"
    assert any(re.search(returned, row) for row in rows) == kernel_abilities.is_told()


def test_csv(net):
    """The CSV output has the same rows and a head line; unknown values are empty."""
    with watching("analyse", "client", "--csv", "--netns", net.client.name) as output:
        talk(net)
    rows = list(csv.DictReader(io.StringIO(output[1])))
    assert [row["step"] for row in rows if row["returns"] == "False"] == ["connect", "send", "receive", "close"]
    assert rows[0]["connect_time_ns"] == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sideways"], "invalid choice"),
        ([], "required: side"),
        (["client", "-p", "4194305"], "there is no process 4194305"),
        (["client", "--min", "fast"], "`fast` is not a duration"),
        (["client", "-L", "70000"], "`70000` is not a port"),
        (["service", "--netns", "lab-nowhere"], "lab-nowhere"),
    ],
)
def test_bad_input(arguments, message):
    """Bad input ends with an error message and exit status 2."""
    ended = lab_command("analyse", *arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("mechanism", "kinds"), [("fentry", "fentry|fexit"), ("kprobe", "kprobe|kretprobe"), ("tracepoint", "tracepoint")]
)
def test_every_mechanism(mechanism, kinds):
    """The program compiles for each mechanism. If the kernel refuses to load or attach it, the tool reports that."""
    ended = lab_command("analyse", "client", "--seconds", "0.1", env=os.environ | {"LAB_ATTACH": mechanism})
    assert ended.returncode in {0, 2}
    assert "cannot be loaded" not in ended.stderr
    assert ended.returncode == 0 or re.search(rf"this kernel refuses the ({kinds}):", ended.stderr)
    assert mechanism != "tracepoint" or ended.returncode == 0
