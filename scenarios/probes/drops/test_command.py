"""The command `lab drops`: its table, JSON Lines, filters, and the owner of the socket."""

import os
from contextlib import ExitStack

import pytest
from support.crowd import PORT, crowd
from support.processes import parsed, refuses, watching

from lab.network.relay import Relay
from lab.network.topology import topology
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse


def watched(net, *options, version=4):
    """Return what the tool prints while a client tries a closed port."""
    with watching("drops", "--netns", net.server.name, *options) as output:
        with converse(net, Conversation(), serve=False, version=version):
            pass
        net.quiesce()
    return output


@pytest.mark.parametrize("version", [4, 6])
def test_json(net, version):
    """Each field of the row."""
    (row,) = parsed(watched(net, "--json", version=version))
    shown = {
        name: row[name]
        for name in ("reason", "destination_address", "destination_port", "flags", "bytes", "pid", "comm")
    }
    assert shown == {
        "reason": "NO_SOCKET", "destination_address": net.server.address(version), "destination_port": PORT,
        "flags": "SYN", "bytes": 0, "pid": None, "comm": None,
    }  # fmt: skip


def test_table(net):
    """The reason is in each line."""
    lines = watched(net)[1].splitlines()
    assert lines[1].split()[1:6] == ["NO_SOCKET", "SYN", "0", "-", "-"]


@pytest.mark.parametrize(
    ("options", "shown"),
    [(["--port", "9999"], True), (["--port", "80"], False), (["--address", "192.0.2.2"], True), (["-6"], False)],
)
def test_filters(net, options, shown):
    """By either side of the packet."""
    rows = parsed(watched(net, "--json", *options))
    assert bool(rows) is shown


@pytest.mark.parametrize("version", [4, 6])
def test_the_owner_is_the_process_that_holds_the_socket(version):
    """This process holds the listener whose queue is full."""
    with (
        topology(Relay()) as net,
        ExitStack() as still_open,
        watching("drops", "--json", "--netns", net.server.name) as output,
    ):
        still_open.enter_context(crowd(net, version))
    rows = [row for row in parsed(output) if row["reason"] == "ACCEPT_QUEUE_FULL"]
    assert {row["pid"] for row in rows} == {os.getpid()}


def test_wrong_arguments():
    """One sentence."""
    refuses(["drops", "--port", "http"], "`http`")
