"""The command `lab retransmits`: its table, JSON Lines, CSV and filters."""

import csv
import io

import pytest
from support.processes import ends, parsed, refuses, watching

from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse


@pytest.fixture(scope="module")
def net():
    """Two hosts and a wire."""
    with topology(Relay()) as net:
        yield net


def watched(net, *options, **how):
    """Return what the tool prints while the client's request is lost once, and the connection."""
    net.conditions(Conditions(drop=(3,)), Conditions())
    with watching("retransmits", "--netns", net.client.name, *options) as output:
        with converse(net, Conversation(), **how) as demo:
            pass
        net.quiesce()
    return output, demo.connections[0]


@pytest.mark.parametrize("version", [4, 6])
def test_json(net, version):
    """Each field of the row."""
    output, connection = watched(net, "--json", version=version)
    row = parsed(output)[0]
    assert ends(row) == connection.client.flow
    send = connection.client.find("send")
    assert send.enter_ns <= row["time_ns"] <= connection.client.find("recv").exit_ns
    shown = {name: row[name] for name in ("state", "what", "bytes", "segments", "times", "error")}
    assert shown == {"state": "ESTABLISHED", "what": "data", "bytes": 375, "segments": 1, "times": 1, "error": None}


def test_table(net):
    """A line fits into 80 columns."""
    output, connection = watched(net)
    ends = f"{connection.client.flow.laddr}:{connection.client.flow.lport} -> 192.0.2.2:9999"
    row = next(line for line in output[1].splitlines() if ends in line)
    assert row.split()[1:6] == ["ESTABLISHED", "data", "375", "1", ends.split(maxsplit=1)[0]]
    assert max(map(len, output[1].splitlines())) <= 80


def test_csv(net):
    """The same columns as the JSON object."""
    output, _ = watched(net, "--csv")
    rows = list(csv.DictReader(io.StringIO(output[1])))
    assert rows[0]["what"] == "data"


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--port", "9999"], True),
        (["--remote-port", "80", "9999"], True),
        (["--local-port", "9999"], False),
        (["--address", "192.0.2.2"], True),
        (["--address", "192.0.2.3", "::1"], False),
        (["-4"], True),
        (["-6"], False),
    ],
)
def test_filters(net, options, shown):
    """The option means the socket's own side by `local`, and either side without."""
    output, _ = watched(net, "--json", *options)
    assert bool([row for row in parsed(output) if row.get("kind") != "account"]) is shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "http"], "`http`"),
        (["--address", "web"], "`web` is not an address"),
        (["-4", "-6"], "not allowed with"),
    ],
)
def test_wrong_arguments(options, message):
    """One sentence."""
    refuses(["retransmits", *options], message)
