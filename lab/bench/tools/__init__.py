"""Who is measured: this project's probes, and what a user would take instead. A module for each origin, each tool one object in it.

Every tool is run as a user runs it, as a process of its own that prints; what it prints is read into rows of one form. There is no
list to edit: whatever tool a module has in its `TOOLS` takes part.
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
"""What a tool can claim to tell: a tool is compared with those that claim the same."""

KINDS = (STATES, DURATION, RTT, FLOWS, PACKETS)
"""Those that every tool is measured for; native XDP is there only where it can be attached."""

CHANGES, SEGMENTS, FRAMES = "inet_sock_set_state", "tcp_probe", ""
"""What a tool's program runs for: a hit of a tracepoint, or a frame at an interface."""

_PACKAGES = ("libbpf-tools", "bpfcc-tools", "bpftrace", "tcpdump", "tshark")
_TELLING = re.compile(r"error|fail|cannot|not available|could not|no such|refuse", re.IGNORECASE)
_MOST_TELLING = re.compile(r"k(ret)?probe|fentry|fatal|verifier", re.IGNORECASE)
_PATH = f"{Path(sys.prefix) / 'bin'}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_READY_LIMIT_S = 60.0
_QUIET_S = 0.3
_REST_S, _RESTING = 0.2, 0.1  # a tenth of a processor is no start any more
_LONGEST_REASON = 250


class StateRow(NamedTuple):
    """A change of a socket's state; None is what the tool itself calls unknown."""

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
    """A connection that is over, and how long it has lasted; None is unknown."""

    laddr: str
    lport: int
    raddr: str
    rport: int
    lasted_ns: int | None


class RttRow(NamedTuple):
    """Round-trip times of one peer, `key`: their number, their mean, and how many are in each slot (`lab.log2_histogram`)."""

    key: str
    number: int
    mean_ns: float
    slots: dict[int, int]


class FlowRow(NamedTuple):
    """What went from one end to the other; `ports` are None where the tool does not tell them."""

    protocol: str
    source: str
    destination: str
    packets: int
    size: int
    ports: tuple[int, int] | None = None


Row = StateRow | LifeRow | RttRow | FlowRow


class Scope(NamedTuple):
    """Where a tool looks: a network namespace and interface, for those that watch one, and a local port to filter by.

    Tools of round-trip times filter by the remote port, `rport`, which others do not look at.
    """

    netns: str | None = None
    ifname: str = "lo"
    lport: int | None = None
    rport: int | None = None


@dataclass(frozen=True)
class Tool:
    """A program that tells something of TCP.

    `words` is its command line for a scope. It observes when its output has `ready` in it (None: when it says so on the file
    descriptor of `--ready-fd`). `read` makes rows of everything it has printed. `at` is what its program runs for: a tracepoint's
    name, or `FRAMES`. `samples`: an RTT that it tells is a single one, not the kernel's smoothed one. `enters` has it started inside
    the scope's namespace. `ours` tells this project's probes from its peers, `unit_ns` is the finest time that it prints.
    """

    name: str
    kind: str
    words: Callable[[Scope], list[str]]
    read: Callable[[str], Iterator[Row]]
    at: str = CHANGES
    ready: str | None = None
    samples: bool = False
    ours: bool = False
    enters: bool = False
    unit_ns: int = 1000
    environment: Callable[[], Mapping[str, str]] = field(default=dict)


class RefusedError(LabError):
    """A tool that cannot run here; the message is its own reason."""


class Running:
    """A tool under way; `output` is what it has printed so far, `complaints` what it has said on standard error."""

    def __init__(self, tool: Tool, process: "subprocess.Popen[bytes]", files: tuple[Path, Path]) -> None:
        self.tool = tool
        self.process = process
        self._out, self._err = files

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    @property
    def output(self) -> str:
        """Standard output so far."""
        return self._out.read_text(errors="replace")

    @property
    def complaints(self) -> str:
        """Standard error so far."""
        return self._err.read_text(errors="replace")

    def rows(self) -> list[Any]:
        """Read what it has told so far."""
        return list(self.tool.read(self.output))

    def await_text(self, text: str, limit_s: float) -> bool:
        """Wait until it has said something, wherever; False when the time is up or the tool has ended without."""
        deadline, going = time.monotonic() + limit_s, True
        while text not in self.output and text not in self.complaints:
            if not going or time.monotonic() > deadline:
                return False
            time.sleep(0.001)
            going = self.process.poll() is None
        return True

    def await_quiet(self, limit_s: float = 20.0) -> None:
        """Wait until it has printed nothing for a while: a tool that wakes up for each event is far behind after a load."""
        deadline, size, since = time.monotonic() + limit_s, -1, time.monotonic()
        while time.monotonic() < min(deadline, since + _QUIET_S):
            if (now := self._out.stat().st_size) != size:
                size, since = now, time.monotonic()
            time.sleep(0.005)

    def await_rest(self, limit_s: float = 20.0) -> None:
        """Wait until it takes next to nothing of a processor."""
        deadline = time.monotonic() + limit_s
        while busy_share(self.pid, _REST_S) > _RESTING and time.monotonic() < deadline:
            pass

    def end(self, limit_s: float = 20.0) -> None:
        """Have it end as by Ctrl-C, and wait for that."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(limit_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


@contextmanager
def running(tool: Tool, scope: Scope | None = None) -> Iterator[Running]:
    """Run a tool around a block, from when it observes. Raises `RefusedError` with the tool's own words when it never does."""
    scope = scope or Scope()
    folder = Path(tempfile.mkdtemp(prefix="tool-", dir=Instance.current().path))
    out, err = folder / "out", folder / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        read, write = os.pipe()
        try:
            process = _start(tool, scope, write, stdout=stdout, stderr=stderr)
        finally:
            os.close(write)
    with os.fdopen(read) as ready:
        run = Running(tool, process, (out, err))
        try:
            if not (ready.readline() if tool.ready is None else run.await_text(tool.ready, _READY_LIMIT_S)):
                run.end()
                raise RefusedError(reason(run.complaints + run.output) or f"it is not ready after {_READY_LIMIT_S:g} s")
            yield run
        finally:
            # Of its session, which is its own: tshark leaves dumpcap behind when it is not given the time to end it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def at_rest(tool: Tool, scope: Scope | None = None) -> Iterator[Running]:
    """As `running`, from when the tool has finished starting too: some observe before, and what a start takes is another figure."""
    with running(tool, scope) as run:
        run.await_rest()
        yield run


def _start(tool: Tool, scope: Scope, ready_fd: int, **options: Any) -> "subprocess.Popen[bytes]":
    """Start a process that does not outlive this one, and does not hear a terminal's Ctrl-C, which is for the bench."""
    words = tool.words(scope)
    program = shutil.which(words[0], path=_PATH)
    if program is None:
        raise RefusedError(f"{words[0]} is not installed: run make bench-setup as root")
    line = ["/usr/bin/setpriv", "--pdeathsig", "KILL", program, *words[1:]]
    fds: tuple[int, ...] = ()
    if tool.ready is None:
        line, fds = [*line, "--ready-fd", str(ready_fd)], (ready_fd,)
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(tool.environment())

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            line, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=fds, env=environment, **options
        )

    return inside(scope.netns, start) if tool.enters and scope.netns else start()


def reason(text: str) -> str:
    """Find the sentence in a tool's output that says why it has ended: what the kernel refused, else the last error, else the end."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" ~^")]
    telling = [line for line in lines if _TELLING.search(line)]
    most = [line for line in telling if _MOST_TELLING.search(line)]
    return (most[-1:] or telling[-1:] or lines[-1:] or [""])[0][:_LONGEST_REASON]


@cache
def every() -> tuple[Tool, ...]:
    """All tools: this project's first, then peers by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    found = [tool for name in names for tool in importlib.import_module(f"{__name__}.{name}").TOOLS]
    return tuple(sorted(found, key=lambda tool: (not tool.ours, tool.kind, tool.name)))


def of(*kinds: str) -> list[Tool]:
    """Tools that claim to tell one of these."""
    return [tool for tool in every() if tool.kind in kinds]


def versions() -> dict[str, str]:
    """Versions of the peers' packages, of those that are installed."""
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n", *_PACKAGES]
    told = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    return dict(line.split(maxsplit=1) for line in told.splitlines() if len(line.split()) == 2)


@cache
def refusal(tool: Tool, scope: Scope | None = None) -> str | None:
    """Why a tool cannot run on this machine, found by running it; None when it can."""
    try:
        with running(tool, scope):
            return None
    except RefusedError as error:
        return str(error)
