"""Start the lab's commands like a user does, and check what they leave behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import jsonschema

from lab import probes
from lab.commands.schema import schema_of
from lab.errors import EventsWithheld
from lab.linux import bpf, tracefs
from lab.linux.instance import INSTANCES, event_group
from lab.linux.netns import NAMED

HUNG_S = 120
"""Seconds after which a process counts as hung. Under emulation, 5 s become 60."""

NOTHING = {"processes": set(), "programs": set(), "namespaces": set(), "events": set(), "instances": set()}
"""The result of `left_of` if nothing is left."""


def lab_command(*arguments, **options):
    """Run a `lab` command to its end; return the completed process with its output as text."""
    command = [sys.executable, "-m", "lab", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S, check=False, **options)


def ip(host, *words):
    """Run the command `ip` in a host's namespace."""
    command = ["/usr/sbin/ip", "-n", host.name, *words]
    subprocess.run(command, check=True, capture_output=True, timeout=HUNG_S)


def kill_sockets(host, *filters):
    """End the TCP sockets of a host that match, with `ss -K`. Fails if there are none."""
    command = ["ip", "netns", "exec", host.name, "ss", "-K", "-H", "-t", "-a", "-n", *filters]
    process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=HUNG_S)
    assert process.stdout, "ss has ended no socket"


def refuses(words, message, **options):
    """Run a `lab` command with wrong arguments and return the completed process.

    Fails unless it ends with status 2, with the message on standard error and nothing on standard output.
    """
    process = lab_command(*words, **options)
    assert process.returncode == 2, process.stderr
    assert message in process.stderr, process.stderr
    assert "Traceback" not in process.stderr
    assert process.stdout == ""
    return process


@contextmanager
def started(*command, ready, **options):
    """Start a process in its own session and wait until its output contains `ready`.

    Kill it after the block if it still runs.
    """
    # A suite that was started in the background has SIGINT ignored, and its children inherit that. Restore the default.
    command = ["/usr/bin/env", "--default-signal=INT", *command]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **options
    )
    try:
        for line in process.stdout:
            if ready in line:
                break
        else:
            raise AssertionError(f"{command} ended before it printed {ready!r}")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        process.wait()


@contextmanager
def watching(command, *arguments, python=(sys.executable,)):
    """Run a live tool, `lab <command>`, by a Python interpreter (a command) while the block runs.

    Afterwards the yielded list holds standard error and output.

    Raises `UnsupportedByKernel` if the kernel refuses the probe of that name, and `EventsWithheld` as a recording does, so that
    the scenario is run again.
    """
    probes.require(command)
    read, write = os.pipe()
    # The kernel kills the tool when the suite is killed.
    words = ["/usr/bin/setpriv", "--pdeathsig", "KILL", *python, "-m", "lab", command, "--ready-fd", str(write)]
    words += arguments
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(write,), text=True, start_new_session=True
    )
    os.close(write)
    with os.fdopen(read) as ready:
        if ready.readline() != "ready\n":
            raise AssertionError(process.communicate(timeout=HUNG_S)[1])
    output = []
    try:
        yield output
    finally:
        out, err = interrupted(process)
        output += [err, out]
    assert process.returncode == 0, err
    require_events(command, err)


def interrupted(process):
    """End a process by Ctrl-C and return what it has printed and its errors; kill it if it hangs."""
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=HUNG_S)
    finally:
        process.kill()


def require_events(command, errors):
    """Raise `EventsWithheld` if a live tool says that the kernel did not run its program for some events."""
    if withheld := re.search(r"^lab: (\d+) events lost: the kernel did not run the program", errors, re.MULTILINE):
        raise EventsWithheld({command: int(withheld[1])})


def parsed(output):
    """Return JSON Lines as a list; fail if there is any standard error."""
    errors, text = output
    assert not errors
    return rows_in(text)


def rows_in(text):
    """Return the rows of JSON Lines, without the account at their end. Each must have its schema (`lab schema`)."""
    rows = list(map(json.loads, text.splitlines()))
    for row in rows:
        _validator(row["schema"]).validate(row)
    return [row for row in rows if row.get("kind") != "account"]


def ends(row, here="local", there="remote"):
    """Return the ends of a row: address and port here, address and port there."""
    return tuple(row[f"{side}_{what}"] for side in (here, there) for what in ("address", "port"))


@cache
def _validator(name):
    """Return what validates rows of a schema, which may not have fields that it does not describe."""
    tool = name.partition("/")[0].partition(".")[0]
    schema = schema_of("states" if tool == "account" else tool)
    for part in schema["$defs"].values():
        part["additionalProperties"] = False
    return jsonschema.Draft202012Validator(schema)


def end(process, number=signal.SIGINT):
    """Send a signal to the whole process group, like Ctrl-C at a terminal, and return the exit status."""
    os.killpg(process.pid, number)
    process.stdout.read()
    return process.wait(timeout=HUNG_S)


def descendants(pid):
    """Return the ids of a process and of all its descendants."""
    family = [pid]
    for parent in family:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            family += [int(child) for child in children.read_text().split()]
    return family


def belongings(pid):
    """Return a process with its descendants, and their BPF programs, instances, namespaces and tracing events."""
    family = descendants(pid)
    locks = {path.stat().st_ino: path.parent.name for path in INSTANCES.glob("*/lock")}
    names = {locks[inode] for member in family for inode in open_files(member) if inode in locks}
    return {
        "processes": set(family),
        "programs": set().union(*(bpf.prog_ids_of_process(member) for member in family)),
        "namespaces": {path.name for name in names for path in NAMED.glob(f"lab-{name}-*")},
        "events": {path for name in names for path in tracefs.events(event_group(name))},
        "instances": names,
    }


def open_files(pid):
    """Return the inode numbers of a process's open files."""
    inodes = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(path.stat().st_ino)
        except FileNotFoundError:  # closed in the meantime
            continue
    return inodes


def lives(pid):
    """Return whether a process is alive. A zombie is not: it stays in /proc if the init process does not reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def left_of(held, limit_s=20.0):
    """Wait up to `limit_s` seconds until nothing of `held` is left (programs are freed late); return the rest."""
    deadline = time.monotonic() + limit_s
    while True:
        left = {
            "processes": {pid for pid in held["processes"] if lives(pid)},
            "programs": {program for program in held["programs"] if bpf.prog_exists(program)},
            "namespaces": {name for name in held["namespaces"] if (NAMED / name).exists()},
            "events": {path for path in held["events"] if path.exists()},
            "instances": {name for name in held["instances"] if (INSTANCES / name).exists()},
        }
        if not any(left.values()) or time.monotonic() > deadline:
            return left
        time.sleep(0.01)
