"""Nothing left of a resource: a command says one sentence and ends with status 2, or does not need the resource."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.made.run_folder import checks, folder
from support.processes import HUNG_S

from lab.paths import CHECKOUT

LAB = str(Path(sys.executable).with_name("lab"))
SHORT = ["--seconds", "0.05"]
COMMANDS = {
    "help": ["--help"],
    "doctor": ["doctor"],
    "connect": ["connect", "127.0.0.1"],
    "wire": ["wire", *SHORT],
    "states": ["states", *SHORT],
    "rtt": ["rtt", *SHORT],
    "analyse": ["analyse", "client", *SHORT],
    "layers": ["layers", "-i", "lo", *SHORT],
    **{name: [name, "-i", "lo", *SHORT] for name in ("duration", "packets", "flows")},
    "demo": ["demo"],
    "serve": ["serve", "--connections", "0"],
    "replay": ["replay", "no-file", "-i", "lo"],
    "report": ["report", "RUN"],
    "compare": ["compare", "RUN", "RUN"],
    "matrix": ["matrix", "RUN"],
    "export": ["export", "RUN", "-f", "jsonl"],
    "bench": ["bench", "--help"],
    "gate": ["gate", "--help"],
    "vm": ["vm", "--help"],
}
USUAL = {"connect": (1, True), "serve": (2, False), "replay": (2, False), "packets": (0, False)}
"""Exit status, and whether there is output, of the commands that do not end with 0 and output."""
LIVE = ("wire", "states", "rtt", "analyse", "layers", "duration", "packets", "flows", "demo")


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the command `lab` behind a shell's commands, in a mount namespace of its own."""
    folder(tmp_path / "RUN", checks=checks(count=1, wrong=0))
    (tmp_path / "results").mkdir()

    def start(words, before, program=(LAB,), **environment):
        return subprocess.run(
            ["/usr/bin/unshare", "--mount", "/bin/bash", "-c", f'{before}; exec "$@"', "bash", *program, *words],
            cwd=tmp_path,
            env=os.environ | {"LAB_RESULTS": str(tmp_path / "results")} | environment,
            capture_output=True,
            text=True,
            timeout=HUNG_S,
            check=False,
        )

    return start


def said(done, *sentences):
    """Check that a command has ended with status 2 and one of the sentences, without a traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1:]
    assert done.returncode == 2, (done.returncode, done.stdout[-500:], done.stderr)
    assert any(sentence in line for line in last for sentence in sentences), done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_standard_output_is_closed(run, name):
    """Nothing is done for nobody to see."""
    said(run(COMMANDS[name], "exec >&-"), "lab: standard output is closed: redirect it to a file or to /dev/null")


@pytest.mark.parametrize("name", COMMANDS)
def test_standard_error_and_input_are_closed(run, name):
    """No file takes the place of the closed streams. The same comes out as with them."""
    closed = run(COMMANDS[name], "exec <&- 2>&-")
    assert (closed.returncode, len(closed.stdout) > 0) == USUAL.get(name, (0, True))


@pytest.mark.parametrize("files", [6, 9, 14, 22])
@pytest.mark.parametrize("name", LIVE)
def test_no_file_descriptors(run, name, files):
    """The kernel is not blamed, and a command that has what it needs works."""
    done = run(COMMANDS[name], f"ulimit -n {files}")
    if done.returncode != 0:
        said(done, "lab: no file descriptors are left (", "the next command removes it")


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ("ulimit -n 6", "file descriptors are"),
        ("ulimit -n 14", "file descriptors are"),
        ("ulimit -v 150000", "memory is"),
    ],
)
def test_nothing_left_for_the_compiler(run, limit, sentence):
    """The source of a program is not blamed."""
    said(run(COMMANDS["states"], limit, LAB_CACHE="off"), f"lab: no {sentence} left (")


@pytest.mark.parametrize("name", LIVE)
def test_no_memory_for_libraries(run, name):
    """Address space for the interpreter, and not for what it loads."""
    done = run(COMMANDS[name], "ulimit -v 150000")
    if done.returncode != 0:
        said(done, "lab: no memory is left (")


@pytest.mark.parametrize("name", LIVE)
@pytest.mark.parametrize("threads", [1, 2])
def test_no_processes(run, name, threads, pids_cgroup):
    """The compiler and the demo's server need processes of their own."""
    done = run(
        COMMANDS[name], f"echo {threads} >{pids_cgroup}/pids.max; echo $$ >{pids_cgroup}/cgroup.procs", LAB_CACHE="off"
    )
    if done.returncode != 0:
        said(done, "lab: no process or thread can be started (")


@pytest.fixture
def pids_cgroup():
    """Yield a cgroup with the controller of processes, of version 2 or 1."""
    first, second = Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")
    if not first.is_dir():
        (second / "cgroup.subtree_control").write_text("+pids")
    path = (first if first.is_dir() else second) / f"lab-robustness-{os.getpid()}"
    path.mkdir()
    yield path
    path.rmdir()


@pytest.mark.parametrize("place", ["/sys", "/proc"])
@pytest.mark.parametrize("name", LIVE)
def test_not_mounted(run, name, place):
    """The sentence says what to mount."""
    done = run(COMMANDS[name], f"mount -t tmpfs none {place}")
    if done.returncode != 0:
        said(done, f"does not exist: mount {place} (mount -t ", "the next command removes it")


@pytest.mark.parametrize("name", LIVE)
def test_run_is_read_only(run, name):
    """The lab's locks and the names of namespaces are there."""
    said(run(COMMANDS[name], "mount -t tmpfs -o ro none /run"), "lab: /run/lab cannot be used (Read-only file system)")


@pytest.mark.parametrize("size", ["4k", "64k"])
def test_results_are_full(run, tmp_path, size):
    """What was complete is kept, and the sentence names the folder."""
    done = run(["demo"], f"mount -t tmpfs -o size={size} none {tmp_path}/results")
    said(done, "(No space left on device): free some space, or ")
    assert str(tmp_path / "results") in done.stderr.splitlines()[-1]


def test_results_of_the_suite_are_full(run, tmp_path):
    """Pytest ends with the sentence, not with an internal error."""
    before = f"mount -t tmpfs -o size=4k none {tmp_path}/results; cd {CHECKOUT}"
    done = run(["-q", "scenarios/unit/test_units.py"], before, program=(sys.executable, "-m", "pytest"))
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert (done.returncode, "No space left on device" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("name", ["help", "demo", "states", "report", "doctor"])
def test_another_encoding(run, name):
    """The lab's own files are UTF-8 whatever the locale, and a character that a terminal lacks is escaped."""
    done = run(COMMANDS[name], ":", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert done.stdout.isascii()
