"""`lab wire`: the network works, and the totals of the wire are printed even after an error."""

import json
import signal
import sys

import pytest
from pyroute2 import IPRoute
from support.processes import HUNG_S, NOTHING, belongings, lab_command, left_of, refuses, started

from lab.linux.netns import inside
from lab.units import MS

BAD = {
    "negative delay": (["--delay", "-1ms"], "`-1ms` is not a duration"),
    "loss of 150 %": (["--loss", "150%"], "`150%` is not a share from 0 to 100%"),
    "rate of zero": (["--rate", "0mbit"], "`0mbit` is not a rate of 8bit or more"),
    "limit of zero": (["--limit", "0"], "no frame could pass: give 1 or more"),
    "jitter beyond the delay": (
        ["--delay", "1ms", "--jitter", "2ms"],
        "so a delay could be negative: give a longer delay",
    ),
    "reordering of nothing": (["--reorder", "10%"], "give a delay too"),
    "frame number zero": (["--drop", "0"], "from 1 on"),
    "negative seed": (["--seed", "-1"], "seed is -1: give a whole number"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_one_sentence(arguments, sentence):
    """Wrong arguments give one sentence on standard error, exit status 2 and no output."""
    refuses(["wire", *arguments], sentence)


def hosts_of(process):
    """Return the namespaces of a running command by role: client, server or wire."""
    return {name.rpartition("-")[2]: name for name in belongings(process.pid)["namespaces"]}


def test_by_hand():
    """The demo client on one of the hosts sees the delay, and the command counts its frames."""
    with started(sys.executable, "-m", "lab", "wire", "--delay", "20ms", "--to", "server", ready="Ctrl-C") as process:
        held = belongings(process.pid)
        client = hosts_of(process)["client"]
        done = lab_command("connect", "--json", "--netns", client, "--port", "9", "192.0.2.2")
        (timeline,) = [json.loads(line) for line in done.stdout.splitlines()]
        (connect,) = [call for call in timeline["calls"] if call[0] == "connect"]
        assert connect[2] - connect[1] >= 20 * MS
        output = _end(process)
    assert process.returncode == 0
    lines = [line.split() for line in output.splitlines()]
    assert [line[:6] for line in lines[-2:]] == [
        ["to", "the", "server", "1", "0", "0"],
        ["to", "the", "client", "1", "0", "0"],
    ]
    assert left_of(held) == NOTHING


def test_an_interface_that_disappears():
    """If an interface of the wire disappears: the totals until then, one sentence, exit status 2."""

    def delete():
        with IPRoute() as wire:
            wire.link("del", index=wire.link_lookup(ifname="server")[0])

    with started(sys.executable, "-m", "lab", "wire", ready="Ctrl-C") as process:
        inside(hosts_of(process)["wire"], delete)
        output = _end(process)
    assert process.returncode == 2
    assert "forwarded" in output
    assert "1 times that a device went away" in output
    assert "Traceback" not in output


def _end(process):
    """Send SIGINT and return the rest of the output."""
    process.send_signal(signal.SIGINT)
    output = process.stdout.read()
    process.wait(timeout=HUNG_S)
    return output
