"""A user's error gives one sentence that says what to do, exit status 2, and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import HUNG_S, lab_command, refuses

from lab import cli
from lab.errors import LabError
from lab.linux import btf
from lab.network.conditions import Conditions
from lab.network.topology import topology

BAD = {
    "port out of range": (["states", "-L", "70000"], "`70000` is not a port: give a number from 1 to 65535"),
    "no port at all": (["states", "-D", "http"], "`http` is not a port"),
    "port zero": (["serve", "--port", "0"], "`0` is not a port"),
    "no such namespace": (["states", "--netns", "nowhere"], "there is no network namespace `nowhere`"),
    "no such namespace for the demo": (
        ["connect", "--netns", "nowhere", "127.0.0.1"],
        "no network namespace `nowhere`",
    ),
    "seconds below zero": (["states", "--seconds=-1"], "give a number of seconds above 0"),
    "two families": (["states", "-4", "-6"], "not allowed with argument"),
    "two formats": (["states", "--json", "--csv"], "not allowed with argument"),
    "no duration": (["connect", "--hold", "soon", "127.0.0.1"], "`soon` is not a duration"),
    "odd size": (["connect", "--size-bits", "3", "127.0.0.1"], "give a multiple of 8"),
    "no connection": (["connect", "--connections", "0", "127.0.0.1"], "at least one connection"),
    "foreign address": (["serve", "--address", "192.0.2.77"], "cannot listen on 192.0.2.77"),
    "no address": (["connect", "not an address"], "cannot find `not an address`"),
    "no such command": (["dance"], "there is no command `dance`"),
    "an option before the command": (["-x", "states"], "there is no option or argument `-x`"),
    "misspelt command": (["demmo"], "(`demo`?)"),
    "misspelt option": (["states", "--seconnds", "1"], "(`--seconds`?)"),
    "no connection to serve": (["serve", "--connections", "-1"], "--connections 1 or more"),
    "namespace without a name": (["states", "--netns", ""], "there is no network namespace"),
    "pause in turns": (
        ["connect", "--pause", "--connections", "2", "--concurrency", "1", "::1"],
        "leave --concurrency out",
    ),
    "pause without end": (["serve", "--pause"], "say how many with --connections"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_one_sentence(arguments, sentence):
    """Wrong arguments give one sentence on standard error, exit status 2 and no output."""
    refuses(arguments, sentence)


def test_kernel_without_btf(tmp_path):
    """The error for a kernel without BTF names the missing kernel option."""
    with pytest.raises(LabError, match=r"has no BTF .*CONFIG_DEBUG_INFO_BTF=y"):
        btf.Btf.of_kernel(tmp_path / "vmlinux")


@pytest.mark.parametrize("command", [["-m", "lab", "states"], ["-m", "lab", "demo"], ["-m", "pytest", "scenarios"]])
def test_without_root(command, tmp_path):
    """Without root, a command or the suite ends with one sentence and exit status 2."""
    # User 65534 in a new user namespace: it can read root's files and has no privileges.
    command = ["/usr/bin/unshare", "--user", "--map-user=65534", sys.executable, *command]
    environment = {**os.environ, "LAB_RESULTS": str(tmp_path)}
    process = subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S, check=False, env=environment)
    output = process.stdout + process.stderr
    assert process.returncode == 2, output
    assert "run it as root (sudo)" in output
    assert "Traceback" not in output


def test_without_bcc():
    """Without BCC, the error names the package to install; exit status 2."""
    code = (
        "import sys; from lab.ebpf import compiler; compiler._PLACES = (); "
        "from lab.cli import main; sys.exit(main(['states', '--seconds', '1']))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HUNG_S, check=False)
    assert process.returncode == 2
    assert "install the package python3-bpfcc" in process.stderr
    assert "Traceback" not in process.stderr


def test_no_such_mechanism():
    """The error for a wrong `LAB_ATTACH` lists the values that it may have."""
    process = lab_command("states", "--seconds", "1", env={**os.environ, "LAB_ATTACH": "magic"})
    assert process.returncode == 2
    assert "set it to one of fentry, kprobe, tracepoint" in process.stderr


def test_conditions_a_bridge_cannot_have():
    """A bridge can neither delay nor drop frames, so it refuses those conditions."""
    with topology() as net, pytest.raises(LabError, match="can neither delay nor drop"):
        net.conditions(Conditions(delay_ns=1), Conditions())


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("word", "status"), [("doctor", 0), ("--help", 0), ("nonsense", 2)])
def test_a_reader_that_closes_the_pipe(word, status, unbuffered):
    """`lab doctor | head -1`: when the reader closes the pipe, the command ends without an error message."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        command = [sys.executable, "-m", "lab", word]
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        ended = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, check=False, text=True, env=environment)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (status, int(status > 0))
    assert "pipe" not in ended.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("word", ["doctor", "--help"])
def test_a_full_disk(word, unbuffered):
    """A full disk gives one sentence, whether the first write fails or the last flush."""
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "lab", word]
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, text=True, env=environment)
    expected = (
        "lab: the output cannot be written (No space left on device): free some space, or write it to another place\n"
    )
    assert (ended.returncode, ended.stderr) == (2, expected)


def test_another_broken_pipe_is_an_error(monkeypatch):
    """BrokenPipeError from a pipe other than standard output is a defect, and is raised."""
    monkeypatch.setattr("lab.commands.doctor.run", broken)
    with pytest.raises(BrokenPipeError):
        cli.main(["doctor"])


def broken(_):
    """Write to a pipe without a reader."""
    read, write = os.pipe()
    os.close(read)
    try:
        os.write(write, b"x")
    finally:
        os.close(write)


def test_a_refused_connection(capsys):
    """`lab connect` says that it failed."""
    assert cli.main(["connect", "127.0.0.1", "--port", "9"]) == 1
    assert capsys.readouterr().err == "lab: 1 of 1 connections failed: ECONNREFUSED\n"
