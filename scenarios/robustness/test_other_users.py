"""Another user cannot stop the lab, and no name that another user chooses acts on root's terminal."""

import fcntl
import os
import re
import subprocess
import sys

import pytest
from support.processes import lab_command, rows_in, watching

from lab.linux import instance
from lab.linux.instance import INSTANCES
from lab.linux.netns import NAMED, create, remove

NOBODY = ("/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
HOSTILE = "\x1b[2J\n=1+1"


def test_the_locks_belong_to_root():
    """Nobody else can even open them."""
    assert lab_command("states", "--seconds", "0.05").returncode == 0
    assert INSTANCES.stat().st_mode & 0o777 == 0o700
    probe = "import fcntl; fcntl.flock(open('/run/lab/gate'), fcntl.LOCK_EX)"
    done = subprocess.run([*NOBODY, "/usr/bin/python3", "-c", probe], capture_output=True, text=True, check=False)
    assert "PermissionError" in done.stderr


def test_an_open_folder_is_closed():
    """An earlier version left it readable by all."""
    INSTANCES.chmod(0o755)
    assert lab_command("states", "--seconds", "0.05").returncode == 0
    assert INSTANCES.stat().st_mode & 0o777 == 0o700


def test_waiting_has_a_limit_and_says_for_whom(monkeypatch):
    """One sentence with the process that holds the gate."""
    monkeypatch.setattr(instance, "_GATE_LIMIT_S", 0.1)
    with (INSTANCES / "gate").open("r+") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        gate.truncate(0)
        gate.write(str(os.getpid()))
        gate.flush()
        with pytest.raises(instance.LabError, match=rf"process {os.getpid()} has held /run/lab/gate for 0.1 s: end it"):
            instance.sweep()


def test_a_namespace_without_a_record_is_swept():
    """Its instance's folder is gone, as two quick signals once left it; another program's namespace stays."""
    mine, other = "lab-0dead0-0-client", "lab-test-of-somebody"
    for name in (mine, other):
        create(name)
    try:
        assert lab_command("states", "--seconds", "0.05").returncode == 0
        assert not (NAMED / mine).exists()
        assert (NAMED / other).exists()
    finally:
        remove(other)


TALK = f"""
import ctypes, socket
ctypes.CDLL(None).prctl(15, {HOSTILE.encode()!r}, 0, 0, 0)
listener = socket.create_server(("127.0.0.1", 0))
for _ in range(3):
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.sendall(b"request")
    server.recv(100)
    client.close()
    server.recv(100)
    server.close()
"""


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]], ids=["table", "csv", "json"])
@pytest.mark.parametrize("tool", [["states"], ["analyse", "client"]], ids=lambda words: words[0])
def test_the_name_of_a_process_is_escaped(tool, form):
    """S14: ESC and newline reach no terminal, and a spreadsheet computes nothing."""
    with watching(*tool, *form) as output:
        subprocess.run([sys.executable, "-c", TALK], check=True)
    said = output[1]
    assert "\x1b" not in said
    assert "[2J" in said, "the name is there"
    assert not re.search(r"(^|,)=1", said, re.MULTILINE)
    if form == ["--json"]:
        assert HOSTILE[:15] in {row["comm"] for row in rows_in(said)}
