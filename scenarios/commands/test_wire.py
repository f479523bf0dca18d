"""`lab wire`: a network to use by hand, and what the wire did, told also when something went wrong."""

import json
import signal
import sys

import pytest
from pyroute2 import IPRoute
from support.processes import HUNG_S, NOTHING, belongings, lab_command, left_of, started

from lab.linux.netns import inside
from lab.units import MS

BAD = {
    "negative delay": (["--delay", "-1ms"], "`-1ms` is no duration"),
    "loss of 150 %": (["--loss", "150%"], "`150%` is no part of a whole"),
    "rate of zero": (["--rate", "0mbit"], "`0mbit` is no rate that lets anything pass"),
    "limit of zero": (["--limit", "0"], "no frame could pass: give 1 or more"),
    "jitter beyond the delay": (["--delay", "1ms", "--jitter", "2ms"], "no frame leaves before it came"),
    "reordering of nothing": (["--reorder", "10%"], "give a delay too"),
    "frame number zero": (["--drop", "0"], "counted from 1"),
    "negative seed": (["--seed", "-1"], "seed is -1: give a whole number"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_one_sentence(arguments, sentence):
    """One sentence on standard error, exit status 2, and nothing was built."""
    process = lab_command("wire", *arguments)
    assert process.returncode == 2, process.stderr
    assert sentence in process.stderr
    assert "Traceback" not in process.stderr
    assert process.stdout == ""


def hosts_of(process):
    """Return the names of a running command's namespaces, by their ends."""
    return {name.rpartition("-")[2]: name for name in belongings(process.pid)["namespaces"]}


def test_by_hand():
    """The demo's client on a host of its own sees the delay, and the command tells of its frames."""
    with started(sys.executable, "-m", "lab", "wire", "--delay", "20ms", "--to", "server", ready="Ctrl-C") as process:
        held = belongings(process.pid)
        client = hosts_of(process)["client"]
        done = lab_command("connect", "--json", "--netns", client, "--port", "9", "192.0.2.2")
        (timeline,) = [json.loads(line) for line in done.stdout.splitlines()]
        (connect,) = [call for call in timeline["calls"] if call[0] == "connect"]
        assert connect[2] - connect[1] >= 20 * MS
        said = _end(process)
    assert process.returncode == 0
    lines = [line.split() for line in said.splitlines()]
    assert [line[:6] for line in lines[-2:]] == [
        ["to", "the", "server", "1", "0", "0"],
        ["to", "the", "client", "1", "0", "0"],
    ]
    assert left_of(held) == NOTHING


def test_a_device_that_goes_away():
    """One sentence, exit status 2, and what was seen until then."""

    def take_away():
        with IPRoute() as wire:
            wire.link("del", index=wire.link_lookup(ifname="server")[0])

    with started(sys.executable, "-m", "lab", "wire", ready="Ctrl-C") as process:
        inside(hosts_of(process)["wire"], take_away)
        said = _end(process)
    assert process.returncode == 2
    assert "forwarded" in said
    assert "1 times that a device went away" in said
    assert "Traceback" not in said


def _end(process):
    """Press Ctrl-C and return what the command says then."""
    process.send_signal(signal.SIGINT)
    said = process.stdout.read()
    process.wait(timeout=HUNG_S)
    return said
