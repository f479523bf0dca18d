"""Starting the lab's own commands as a user would, and seeing what they leave behind."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from lab import probes
from lab.linux import bpf, tracefs
from lab.linux.instance import INSTANCES, event_group
from lab.linux.netns import NAMED

HUNG_S = 120
"""What takes longer than this many seconds is taken for hung: where every instruction is emulated, what takes 5 s takes 60."""

NOTHING = {"processes": set(), "programs": set(), "namespaces": set(), "events": set(), "runs": set()}
"""What `left_of` returns when nothing is left."""


def lab_command(*arguments, **options):
    """Run a `lab` command to its end; returns the completed process with its output as text."""
    command = [sys.executable, "-m", "lab", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S, check=False, **options)


@contextmanager
def started(*command, ready, **options):
    """Start a process in a session of its own and wait until its output says `ready`; kill it at the end if need be."""
    # A suite started in the background has inherited that Ctrl-C is ignored; a user at a terminal has not.
    command = ["/usr/bin/env", "--default-signal=INT", *command]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **options
    )
    try:
        for line in process.stdout:
            if ready in line:
                break
        else:
            raise AssertionError(f"{command} ended before it said {ready!r}")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        process.wait()


@contextmanager
def watching(command, *arguments):
    """Run a live tool, `lab <command>`, around a block; afterwards the yielded list holds what it printed, standard error first.

    Raises `UnsupportedByKernel` where the kernel refuses the probe of that name.
    """
    probes.require(command)
    read, write = os.pipe()
    # A suite that is killed takes the tool with it.
    words = ["/usr/bin/setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "lab", command, "--ready-fd", str(write)]
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
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=HUNG_S)
        finally:
            process.kill()
        output += [err, out]
    assert process.returncode == 0, err


def parsed(output):
    """JSON Lines as a list."""
    errors, text = output
    assert not errors
    return [json.loads(line) for line in text.splitlines()]


def end(process, number=signal.SIGINT):
    """Send a signal as a terminal's Ctrl-C does, to the whole session, and return the exit status."""
    os.killpg(process.pid, number)
    process.stdout.read()
    return process.wait(timeout=HUNG_S)


def descendants(pid):
    """Return a process and everything it has started, by id."""
    family = [pid]
    for parent in family:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            family += [int(child) for child in children.read_text().split()]
    return family


def belongings(pid):
    """Return what a process and its children hold: processes, BPF programs, runs, and the namespaces and events of their name."""
    family = descendants(pid)
    locks = {path.stat().st_ino: path.parent.name for path in INSTANCES.glob("*/lock")}
    names = {locks[inode] for member in family for inode in open_files(member) if inode in locks}
    return {
        "processes": set(family),
        "programs": set().union(*(bpf.prog_ids_of_process(member) for member in family)),
        "namespaces": {path.name for name in names for path in NAMED.glob(f"lab-{name}-*")},
        "events": {path for name in names for path in tracefs.events(event_group(name))},
        "runs": names,
    }


def open_files(pid):
    """Inode numbers of a process's open files."""
    inodes = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(path.stat().st_ino)
        except FileNotFoundError:  # closed meanwhile
            continue
    return inodes


def lives(pid):
    """Tell whether a process is alive. A dead one that nobody asks for stays in /proc: not every first process asks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def left_of(held, limit_s=20.0):
    """Return what is still there of `held`, when nothing is or the time is up: the kernel frees programs a little later."""
    deadline = time.monotonic() + limit_s
    while True:
        left = {
            "processes": {pid for pid in held["processes"] if lives(pid)},
            "programs": {program for program in held["programs"] if bpf.prog_exists(program)},
            "namespaces": {name for name in held["namespaces"] if (NAMED / name).exists()},
            "events": {path for path in held["events"] if path.exists()},
            "runs": {name for name in held["runs"] if (INSTANCES / name).exists()},
        }
        if not any(left.values()) or time.monotonic() > deadline:
            return left
        time.sleep(0.01)
