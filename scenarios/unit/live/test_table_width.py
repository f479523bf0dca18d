"""Lines of the tables on a terminal of 80 columns: nothing that matters is cut, and nothing wraps."""

import argparse

import pytest
from support.made import duration, layers, states

from lab.live.output import Output
from lab.output import terminal
from lab.probes.drops import text as drops
from lab.probes.duration import text as lifetimes
from lab.probes.duration.measure import lifetimes as lifetimes_of
from lab.probes.layers import text as requests
from lab.probes.layers.requests import LEGS
from lab.probes.layers.requests import requests as requests_of
from lab.probes.layers.stages import LAYERS, Stages
from lab.probes.packets import text as packets
from lab.probes.states import text as changes
from lab.probes.states.measure import transitions

LONG = "2001:db8:1111:2222:3333:4444:5555:6666"


def a_change():
    """Return the line of a state change, and what it must show."""
    rows = transitions(states.changes(*states.life("CLOSE -> SYN_SENT -> ESTABLISHED -> FIN_WAIT1")))
    known = next(changes.as_dicts(rows[-1:])) | {
        "pid": 4_194_304,
        "comm": "a-long-name-of-15",
        "duration_ns": 86_400_000_000_000,
    }
    return changes.line(known, columns=80), ("4194304", "86400000.000", "ESTABLISHED -> FIN_WAIT1")


def a_lifetime():
    """Return the line of a connection between long addresses, and what it must show."""
    (row,) = lifetimes.as_dicts(lifetimes_of(duration.segments(*duration.exchange("cS sSA cF sF")), 1 << 40), "eth0")
    known = row | {"client_address": LONG, "server_address": LONG, "duration_ns": 10**9}
    return lifetimes.text(known, columns=80), ("1.000000000 s", LONG)


def a_drop():
    """Return the line of a freed packet, and what it must show."""
    row = {"time_ns": 1, "reason": "ACCEPT_QUEUE_FULL", "flags": "PSH,ACK", "bytes": 5, "pid": 7, "comm": "nginx"}
    row |= {
        "source_address": "192.0.2.1",
        "source_port": 40000,
        "destination_address": "192.0.2.2",
        "destination_port": 80,
    }
    return drops.line(row, 80), ("ACCEPT_QUEUE_FULL", "192.0.2.1:40000 -> 192.0.2.2:80")


def a_packet():
    """Return the line of a packet, and what it must show."""
    row = {"time_ns": 1_000_000_000_000_000, "problem": None, "flags": "PSH,ACK", "payload_length": 1448}
    row |= {
        "source_address": "192.0.2.1",
        "source_port": 40000,
        "destination_address": "192.0.2.2",
        "destination_port": 80,
    }
    return packets.line(row, columns=80), ("1000000000000", "192.0.2.1:40000 -> 192.0.2.2:80", "PSH,ACK 1448")


def a_request():
    """Return the line of a request, and what it must show: its total and its slowest layer."""
    network = layers.Network(1)
    network.open(layers.FLOW, 8, 9)
    layers.talk(network, layers.FLOW, (8, 9), 2)
    hosts = (layers.CLIENT_NETNS, layers.SERVER_NETNS)
    row = next(requests.as_dicts(requests_of(Stages(layers.points(*network.rows), hosts), layers.PORT).rows))
    times = {(leg, name): row[f"{leg}_{name}_ns"] for leg in LEGS for name in LAYERS}
    leg, layer = max(times, key=times.get)
    return requests.line_for(80)(row), (f"{leg} {layer.replace('_', '-')}",)


@pytest.mark.parametrize("made", [a_change, a_lifetime, a_drop, a_packet, a_request])
def test_what_matters_is_not_cut(made):
    """The name of the event, its times and its ends are within 80 columns."""
    line, parts = made()
    shown = terminal.cut(line, 80)
    assert len(shown) <= 80
    assert all(part in shown for part in parts), shown


def test_lines_are_cut_on_a_terminal_only(capsys, monkeypatch):
    """A line that is too long ends with an ellipsis; with --wide, and in a file, it is whole."""
    for width, wide, shown in (
        (10, False, "123456789…\n"),
        (10, True, "1234567890abc\n"),
        (None, False, "1234567890abc\n"),
    ):
        monkeypatch.setattr(terminal, "columns", lambda width=width: width)
        Output(argparse.Namespace(json=False, csv=False, wide=wide)).row({}, lambda _: "1234567890abc")
        assert capsys.readouterr().out == shown


def test_colours(monkeypatch):
    """A terminal gets colours, unless NO_COLOR is set; a file gets none."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.red("lost") == "lost"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert terminal.red("lost") == "\033[31mlost\033[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.red("lost") == "lost"
