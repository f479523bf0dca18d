"""The measured tools: this project's probes and their peers. One module per origin, one `Tool` object per tool.

Each tool runs as a user runs it, in a process of its own. Its output is parsed into rows of one form. A module lists
its tools in `TOOLS`; there is no other list to edit.
"""

import importlib
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lab.bench.process import busy_share
from lab.errors import LabError
from lab.linux.instance import Instance
from lab.linux.netns import inside

STATES, DURATION, RTT, FLOWS, PACKETS, NATIVE = "states", "duration", "rtt", "flows", "packets", "packets, native XDP"
"""Kinds of tools, by their output. A tool is compared with others of its kind."""

KINDS = (STATES, DURATION, RTT, FLOWS, PACKETS)
"""The kinds that the bench measures everywhere. Native XDP is measured only where it can be attached."""

CHANGES, SEGMENTS, FRAMES = "inet_sock_set_state", "tcp_probe", ""
"""The event for which a tool's program runs: a tracepoint's name, or a frame at an interface."""

_PACKAGES = ("libbpf-tools", "bpfcc-tools", "bpftrace", "tcpdump", "tshark")
_ERROR = re.compile(r"error|fail|cannot|not available|could not|no such|refuse", re.IGNORECASE)
_KERNEL_ERROR = re.compile(r"k(ret)?probe|fentry|fatal|verifier", re.IGNORECASE)
_PATH = f"{Path(sys.prefix) / 'bin'}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_READY_LIMIT_S = 60.0
_QUIET_S = 0.3
_IDLE_S, _IDLE_SHARE = 0.2, 0.1  # below a tenth of a processor the start is over
_LONGEST_REASON = 250


class StateRow(NamedTuple):
    """A change of a socket's state. None is a value that the tool reports as unknown."""

    socket: str
    pid: int | None
    laddr: str
    lport: int | None
    raddr: str
    rport: int | None
    oldstate: str
    newstate: str
    spent_ns: int | None


class LifeRow(NamedTuple):
    """A closed connection and its duration. None is unknown."""

    laddr: str
    lport: int
    raddr: str
    rport: int
    duration_ns: int | None


class RttRow(NamedTuple):
    """Round-trip times of the peer `key`: number, mean, and number per slot (`lab.log2_histogram`)."""

    key: str
    number: int
    mean_ns: float
    slots: dict[int, int]


class FlowRow(NamedTuple):
    """Packets and bytes from one address to another. `ports` is None if the tool does not print ports."""

    protocol: str
    source: str
    destination: str
    packets: int
    size: int
    ports: tuple[int, int] | None = None


Row = StateRow | LifeRow | RttRow | FlowRow


class Scope(NamedTuple):
    """Scope of a tool: network namespace and interface, if it watches one, and a local port to filter by.

    RTT tools filter by the remote port `rport`, which the other kinds ignore.
    """

    netns: str | None = None
    ifname: str = "lo"
    lport: int | None = None
    rport: int | None = None


@dataclass(frozen=True)
class Tool:
    """A program that prints observations of TCP.

    - `command`: its command line for a scope.
    - `read`: parses everything it printed into rows.
    - `at`: the event for which its program runs, a tracepoint's name or `FRAMES`.
    - `ready`: the text in its output that shows that it observes. None: it reports that on the descriptor of
      `--ready-fd`.
    - `samples`: its RTTs are single samples, not the kernel's smoothed RTT.
    - `ours`: a probe of this project, not a peer.
    - `enters`: start it inside the scope's namespace.
    - `unit_ns`: resolution of the times that it prints.
    """

    name: str
    kind: str
    command: Callable[[Scope], list[str]]
    read: Callable[[str], Iterator[Row]]
    at: str = CHANGES
    ready: str | None = None
    samples: bool = False
    ours: bool = False
    enters: bool = False
    unit_ns: int = 1000
    environment: Callable[[], Mapping[str, str]] = field(default=dict)


class RefusedError(LabError):
    """A tool cannot run here. The message is the tool's own error."""


class Running:
    """A running tool."""

    def __init__(self, tool: Tool, process: "subprocess.Popen[bytes]", files: tuple[Path, Path]) -> None:
        self.tool = tool
        self.process = process
        self._out, self._err = files

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self.process.pid

    @property
    def output(self) -> str:
        """Standard output so far."""
        return self._out.read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error so far."""
        return self._err.read_text(encoding="utf-8", errors="replace")

    def rows(self) -> list[Any]:
        """Return the rows printed so far."""
        return list(self.tool.read(self.output))

    def await_text(self, text: str, limit_s: float) -> bool:
        """Wait for a text on standard output or error. Return false if the limit expires or the tool ends first."""
        deadline, alive = time.monotonic() + limit_s, True
        while text not in self.output and text not in self.stderr:
            if not alive or time.monotonic() > deadline:
                return False
            time.sleep(0.001)
            alive = self.process.poll() is None
        return True

    def await_quiet(self, limit_s: float = 20.0) -> None:
        """Wait until the output stops growing, or until the limit expires.

        A tool that wakes up for each event is far behind after a load.
        """
        deadline, size, since = time.monotonic() + limit_s, -1, time.monotonic()
        while time.monotonic() < min(deadline, since + _QUIET_S):
            if (now := self._out.stat().st_size) != size:
                size, since = now, time.monotonic()
            time.sleep(0.005)

    def await_idle(self, limit_s: float = 20.0) -> None:
        """Wait until the tool uses almost no CPU time, or until the limit expires."""
        deadline = time.monotonic() + limit_s
        while busy_share(self.pid, _IDLE_S) > _IDLE_SHARE and time.monotonic() < deadline:
            pass

    def end(self, limit_s: float = 20.0) -> None:
        """Send SIGINT and wait for the end; kill the process when the limit expires."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(limit_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


@contextmanager
def running(tool: Tool, scope: Scope | None = None) -> Iterator[Running]:
    """Run a tool around a block, which starts when the tool observes. Raises `RefusedError` if it cannot run."""
    scope = scope or Scope()
    folder = Path(tempfile.mkdtemp(prefix="tool-", dir=Instance.current().path))
    out, err = folder / "out", folder / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        read, write = os.pipe()
        try:
            process = _start(tool, scope, write, folder, stdout=stdout, stderr=stderr)
        finally:
            os.close(write)
    with os.fdopen(read) as ready:
        run = Running(tool, process, (out, err))
        try:
            if not (ready.readline() if tool.ready is None else run.await_text(tool.ready, _READY_LIMIT_S)):
                run.end()
                raise RefusedError(reason(run.stderr + run.output) or f"not ready after {_READY_LIMIT_S:g} s")
            yield run
        finally:
            # Kill the tool's whole session: a tshark that is killed leaves dumpcap behind.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_idle(tool: Tool, scope: Scope | None = None) -> Iterator[Running]:
    """Like `running`, but the block starts when the tool is idle. Some tools observe before they are fully started."""
    with running(tool, scope) as run:
        run.await_idle()
        yield run


def _start(tool: Tool, scope: Scope, ready_fd: int, folder: Path, **options: Any) -> "subprocess.Popen[bytes]":
    """Start the tool, with `folder` for its temporary files. The kernel kills it when this process dies.

    Its own session keeps Ctrl-C from it.
    """
    name, *arguments = tool.command(scope)
    program = shutil.which(name, path=_PATH)
    if program is None:
        raise RefusedError(f"{name} is not installed: run make bench-setup as root")
    command = ["/usr/bin/setpriv", "--pdeathsig", "KILL", program, *arguments]
    fds: tuple[int, ...] = ()
    if tool.ready is None:
        command, fds = [*command, "--ready-fd", str(ready_fd)], (ready_fd,)
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)} | dict(tool.environment())

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=fds, env=environment, **options
        )

    return inside(scope.netns, start) if tool.enters and scope.netns else start()


def reason(text: str) -> str:
    """Return the line that explains why a tool ended: the last kernel error, else the last error or line."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" ~^")]
    errors = [line for line in lines if _ERROR.search(line)]
    kernel_errors = [line for line in errors if _KERNEL_ERROR.search(line)]
    return (kernel_errors[-1:] or errors[-1:] or lines[-1:] or [""])[0][:_LONGEST_REASON]


@cache
def every() -> tuple[Tool, ...]:
    """Return all tools: this project's, then the peers, each sorted by kind and name."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    found = [tool for name in names for tool in importlib.import_module(f"{__name__}.{name}").TOOLS]
    return tuple(sorted(found, key=lambda tool: (not tool.ours, tool.kind, tool.name)))


def of(*kinds: str) -> list[Tool]:
    """Return the tools of these kinds."""
    return [tool for tool in every() if tool.kind in kinds]


def versions() -> dict[str, str]:
    """Return the versions of the installed packages of peers."""
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n", *_PACKAGES]
    output = subprocess.run(query, capture_output=True, encoding="utf-8", check=False).stdout
    return dict(line.split(maxsplit=1) for line in output.splitlines() if len(line.split()) == 2)


@cache
def refusal(tool: Tool, scope: Scope | None = None) -> str | None:
    """Run a tool. Return the reason why it cannot run on this machine, None if it can."""
    try:
        with running(tool, scope):
            return None
    except RefusedError as error:
        return str(error)
