"""Live tools run as another user with the capabilities of docs/security.md, and say which one is missing."""

import os
import re
import socket
import subprocess
import sys

import pytest
from support import other_user
from support.processes import HUNG_S, rows_in, watching

from lab import probes
from lab.ebpf import attach
from lab.linux.netns import NAMED
from lab.network.topology import topology
from lab.paths import DOCS

_ROW = re.compile(r"^\| `lab (\w+)` \| (`CAP_.*) \|$", re.MULTILINE)
NEEDS = {tool: re.findall(r"CAP_(\w+)", names) for tool, names in _ROW.findall((DOCS / "security.md").read_text())}
LOOPBACK = ("-i", "lo")
OPTIONS = {
    "analyse": ["client"],
    "duration": LOOPBACK,
    "flows": [*LOOPBACK, "--connections"],
    "layers": LOOPBACK,
    "packets": LOOPBACK,
}
NOT_COUNTED = "reading /sys/kernel/tracing needs CAP_DAC_READ_SEARCH, which this process lacks"
NOT_OBSERVED = "were made by calls that are not observed"  # calls of other programs, in progress when `analyse` started
NOT_ON_EVERY_KERNEL = {("duration", "PERFMON"), ("flows", "PERFMON")}
ONLY_AT_TRACEPOINTS = ("analyse", "NET_ADMIN")


def capabilities_of(tool):
    """Return the capabilities of a tool on this lane."""
    here = attach.mechanism()
    names = [it for it in NEEDS[tool] if (tool, it) != ONLY_AT_TRACEPOINTS or here == "tracepoint"]
    # For returns of functions, kprobes are events of tracefs, which only root may write.
    return [*names, "DAC_OVERRIDE"] if here == "kprobe" and tool in {"analyse", "layers"} else names


def ends(*words, capabilities=(), runtime=None):
    """Run a command as the user to its end."""
    command = [*other_user.python(*capabilities, runtime=runtime), "-m", "lab", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S, check=False)


def talk(listener):
    """Hold a connection on the loopback of this machine, and ask for another when the port is closed."""
    address = listener.getsockname()
    with socket.create_connection(address) as client, listener.accept()[0] as server:
        client.sendall(b"request")
        server.sendall(server.recv(100))
        client.recv(100)
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_every_live_tool_is_in_the_table():
    """The documentation says what each one needs."""
    assert sorted(NEEDS) == sorted(probes.names())


@pytest.mark.parametrize("tool", sorted(NEEDS))
def test_with_what_it_needs(tool):
    """The tool observes. It says what it does not count, and nothing else."""
    probes.require(tool)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        options = [*OPTIONS.get(tool, []), *(["--port", str(port)] if tool in {"layers", "packets"} else []), "--json"]
        with watching(tool, *options, python=other_user.python(*capabilities_of(tool))) as output:
            talk(listener)
    errors, text = output
    assert all(NOT_COUNTED in line or NOT_OBSERVED in line for line in errors.splitlines()), errors
    rows = rows_in(text)
    if tool == "rtt":  # it has one histogram for all connections
        assert rows
    elif tool != "retransmits":  # nothing is lost on the loopback
        assert [row for row in rows if port in row.values()], rows[:3]


@pytest.mark.parametrize(("tool", "lacking"), [(tool, it) for tool, names in NEEDS.items() for it in names])
def test_without_one(tool, lacking):
    """One sentence says which capability is missing."""
    probes.require(tool)
    needs = capabilities_of(tool)
    done = ends(tool, *OPTIONS.get(tool, []), "--seconds", "0.1", capabilities=[it for it in needs if it != lacking])
    if (tool, lacking) in NOT_ON_EVERY_KERNEL and done.returncode == 0:
        return
    if lacking in needs:
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert f"needs CAP_{lacking}, which this process lacks: run it as root (sudo)" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_without_any():
    """The sentence names all that the probe needs."""
    done = ends("states", "--seconds", "0.1")
    assert done.returncode == 2
    assert done.stderr.startswith("lab: the probe states needs CAP_BPF and CAP_PERFMON, which this process lacks")


def test_the_count_of_withheld_events():
    """With the capability to read tracefs they are counted."""
    done = ends("states", "--seconds", "0.3", capabilities=["BPF", "PERFMON", "DAC_READ_SEARCH"])
    assert done.returncode == 0, done.stderr
    assert "are not counted" not in done.stderr


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["states", "--netns", str(os.getpid())], "SYS_PTRACE"),
        (["states", "--netns", f"/proc/{os.getpid()}/ns/net"], "SYS_PTRACE"),
        (["flows", "-i", "lo", "--netns", "{}"], "SYS_ADMIN"),
    ],
    ids=["process", "path", "interface"],
)
def test_a_namespace(words, needed):
    """Entering one, and finding that of another user's process, need more than observing it."""
    with topology() as net:
        words = [it.format(net.client.name) for it in words]
        needs = capabilities_of(words[0])
        refused = ends(*words, "--seconds", "0.1", capabilities=needs)
        assert refused.returncode == 2
        assert f"needs CAP_{needed}, which this process lacks" in refused.stderr
        done = ends(*words, "--seconds", "0.1", capabilities=[*needs, needed])
        assert done.returncode == 0, done.stderr


def test_namespaces_of_root_stay():
    """The user's sweep leaves those of a live instance of root, even if the user may remove them."""
    with topology() as net:
        done = ends("states", "--seconds", "0.1", capabilities=["BPF", "PERFMON", "SYS_ADMIN", "DAC_OVERRIDE"])
        assert done.returncode == 0, done.stderr
        assert (NAMED / net.client.name).exists()


def test_building_a_network_needs_root():
    """Capabilities are not enough: names of namespaces and locks belong to root."""
    done = ends("wire", capabilities=["BPF", "PERFMON", "NET_ADMIN", "NET_RAW", "SYS_ADMIN", "DAC_OVERRIDE"])
    assert (done.returncode, done.stdout) == (2, "")
    assert "and the folders /run/netns and /run/lab, which are root's: run it as root (sudo)" in done.stderr


def test_the_folder_of_the_user(tmp_path):
    """It is closed to others, and holds no instance when the tool has ended."""
    os.chown(tmp_path, other_user.UID, other_user.UID)
    done = ends("states", "--seconds", "0.1", capabilities=capabilities_of("states"), runtime=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (other_user.UID, 0o700)
    assert [it.name for it in folder.iterdir()] == ["gate"]


def test_a_folder_that_somebody_else_made(tmp_path):
    """The user is told of it, and how to use another one."""
    tmp_path.chmod(0o755)
    (tmp_path / f"lab-{other_user.UID}").mkdir()
    done = ends("states", "--seconds", "0.1", capabilities=capabilities_of("states"), runtime=tmp_path)
    assert done.returncode == 2
    folder = other_user.PLACE / "runtime" / f"lab-{other_user.UID}"
    assert f"{folder} is not a folder of this user alone: remove it, or set XDG_RUNTIME_DIR" in done.stderr


def test_a_root_without_all_capabilities():
    """It is told which one a network needs."""
    words = ["/usr/bin/setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", sys.executable, "-m", "lab", "wire"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=HUNG_S, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "BPF programs needs CAP_NET_RAW, which this process lacks" in done.stderr
