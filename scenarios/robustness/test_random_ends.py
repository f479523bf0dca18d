"""Ends at random moments: whatever ends a command, nothing of it is left, at once or after the next command.

`--rounds N` sets the number of ends for each command; `make torture` takes 200. The moments are seeded.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from support.processes import HUNG_S

LAB = str(Path(sys.executable).with_name("lab"))
COMMANDS = {
    "wire": (["wire", "--seconds", "1"], 1.2),
    "states": (["states", "--seconds", "0.5"], 0.7),
    "metrics": (["states", "--metrics", ":0", "--seconds", "0.5"], 1.0),
    "layers": (["layers", "-i", "lo", "--seconds", "0.5"], 1.0),
    "packets": (["packets", "-i", "lo", "--seconds", "0.5"], 1.0),
    "demo": (["demo"], 4.0),
}


class House:
    """A mount namespace with a /run of its own, so that what one command leaves can be seen beside other scenarios."""

    def __init__(self, results):
        script = "mount -t tmpfs none /run && echo ready && exec sleep infinity"
        self._holder = subprocess.Popen(
            ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout.readline() == "ready\n"
        self._run = Path(f"/proc/{self._holder.pid}/root/run")
        self._environment = os.environ | {"LAB_RESULTS": str(results)}

    def start(self, words):
        """Start a command there; returns its process and the mark of all that descend from it."""
        mark = uuid.uuid4().hex
        command = ["/usr/bin/nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "/usr/bin/env", "--default-signal"]
        process = subprocess.Popen(
            [*command, LAB, *words],
            env=self._environment | {"MARK": mark},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return process, mark

    def sweep(self):
        """Run a short command, which removes what dead ones have left; returns its mark."""
        process, mark = self.start(["states", "--seconds", "0.01"])
        _, said = process.communicate(timeout=HUNG_S)
        assert process.returncode == 0, said
        return mark

    def left(self, mark, limit_s=5.0):
        """Return what is left of a command: instances, namespaces and processes, after up to `limit_s` for the last to end."""
        deadline = time.monotonic() + limit_s
        while True:
            found = [str(path) for place in ("lab/*", "netns/lab-*") for path in self._run.glob(place)]
            found = [path for path in found if not path.endswith("/gate")] + marked(mark)
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.01)

    def close(self):
        """End the holder, and with it the mounts."""
        self._holder.kill()
        self._holder.communicate()


def marked(mark):
    """Return the living processes that carry a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (path / "environ").read_bytes():
                found.append(f"process {path.name}: {(path / 'cmdline').read_bytes()[:200]!r}")
        except OSError:  # it has ended
            continue
    return found


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Return a house for all commands of this module."""
    house = House(tmp_path_factory.mktemp("results"))
    yield house
    house.close()


@pytest.fixture
def moments(request):
    """Yield seeded moments, as many as the command line asks for."""
    draw = random.Random(request.node.name)  # noqa: S311 (no secret)
    rounds = request.config.getoption("--rounds")
    return [(draw.random(), draw.choice((None, draw.uniform(0, 0.02))), draw) for _ in range(rounds)]


@pytest.mark.parametrize("name", COMMANDS)
def test_signals(house, moments, name):
    """One signal, or two up to 20 ms apart: the command ends, prints no traceback, and leaves nothing."""
    words, lasts_s = COMMANDS[name]
    for share, again_s, draw in moments:
        process, mark = house.start(words)
        time.sleep(share * lasts_s)
        for wait_s in (0, again_s):
            if wait_s is not None:
                time.sleep(wait_s)
                process.send_signal(draw.choice((signal.SIGINT, signal.SIGTERM)))
        _, said = process.communicate(timeout=HUNG_S)
        # Before main() begins, the interpreter itself handles SIGINT, and prints where it was.
        assert not re.search(r"lab/cli\.py\", line \d+, in main", said), said
        assert house.left(mark) == [], f"after {share * lasts_s:.3f} s, {again_s} s"


@pytest.mark.parametrize("name", ["wire", "states", "demo"])
def test_kills(house, moments, name):
    """After `kill -9` no process lives on, and the next command removes the rest."""
    words, lasts_s = COMMANDS[name]
    for share, _, _ in moments:
        process, mark = house.start(words)
        time.sleep(share * lasts_s)
        process.kill()
        process.communicate(timeout=HUNG_S)
        its_mark = house.sweep()
        assert house.left(mark) + house.left(its_mark) == [], f"after {share * lasts_s:.3f} s"


def test_two_at_once(house, moments):
    """The end of one run, by `kill -9`, changes nothing for another one beside it, not even when a third sweeps."""
    words, lasts_s = COMMANDS["demo"]
    for share, _, _ in moments:
        (one, mark), (other, its_mark) = house.start(words), house.start(words)
        time.sleep(share * lasts_s)
        other.kill()
        other.communicate(timeout=HUNG_S)
        last_mark = house.sweep()
        _, said = one.communicate(timeout=HUNG_S)
        assert one.returncode == 0, said
        assert house.left(mark) + house.left(its_mark) + house.left(last_mark) == [], f"after {share * lasts_s:.3f} s"
