"""Run a tool as a user runs it, in a process of its own, and read what it prints."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lab import clock
from lab.errors import LabError
from lab.judging import peer_headers, reading
from lab.judging.description import Description, filled
from lab.judging.quantity import Quantity, Row
from lab.linux.instance import Instance
from lab.linux.netns import inside
from lab.linux.process import busy_share
from lab.units import duration_ns

CASE = "LAB_CASE"
"""The environment variable with the name of the case. A tool that does not know the case exits with `UNKNOWN_CASE`."""

UNKNOWN_CASE = 127

_ERROR = re.compile(r"error|fail|cannot|not available|could not|no such|refuse", re.IGNORECASE)
_KERNEL_ERROR = re.compile(r"k(ret)?probe|fentry|fatal|verifier", re.IGNORECASE)
_PATH = f"{Path(sys.prefix) / 'bin'}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_READY_LIMIT_S = 300.0 if clock.GUEST in os.environ else 60.0  # a guest without KVM is slow
_QUIET_S = 0.3
_IDLE_S, _IDLE_SHARE = 0.2, 0.1  # below a tenth of a processor the start is over
_LONGEST_REASON = 250
_MOST_OUTPUT = 1 << 27  # bytes that are read of what a tool printed


class Scope(NamedTuple):
    """Scope of a tool: network namespace and interface of the observed host, ports to filter by, and the hosts' addresses."""

    netns: str | None = None
    ifname: str = "lo"
    lport: int | None = None
    rport: int | None = None
    port: int = 0
    client: str = ""
    server: str = ""
    peer: str | None = None
    case: str = ""


class RefusedError(LabError):
    """A tool cannot run here. The message is the tool's own error; `unknown_case` if it exited with `UNKNOWN_CASE`."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.unknown_case = status == UNKNOWN_CASE


class Running:
    """A running tool."""

    def __init__(
        self, tool: Description, process: "subprocess.Popen[bytes]", files: tuple[Path, Path], netns: str | None
    ) -> None:
        self.tool = tool
        self.process = process
        self.ended_early: int | None = None
        self._out, self._err = files
        self._netns = netns
        self._scraped = ""

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self.process.pid

    @property
    def output(self) -> str:
        """Standard output so far, or what was scraped at the end."""
        return self._scraped or _text(self._out)

    @property
    def stderr(self) -> str:
        """Standard error so far."""
        return _text(self._err)

    def rows(self, quantity: Quantity | None = None) -> list[Row]:
        """Return the rows printed so far of one quantity, by default of the tool's first."""
        return reading.told(self.tool, quantity or self.tool.quantities[0], self.output, "").rows

    def await_text(self, text: str, limit_s: float) -> bool:
        """Wait for a text on standard output or error. Return false if the limit expires or the tool ends first."""
        return self._await(lambda: text in self.output or text in self.stderr, limit_s)

    def await_answer(self, address: str, limit_s: float) -> bool:
        """Wait until an HTTP server answers. Return false as `await_text`."""
        return self._await(lambda: self._scrape(address) is not None, limit_s)

    def _await(self, met: Callable[[], bool], limit_s: float) -> bool:
        deadline, alive = time.monotonic() + limit_s, True
        while not met():
            if not alive or time.monotonic() > deadline:
                return False
            time.sleep(0.001)
            alive = self.process.poll() is None
        return True

    def _scrape(self, address: str) -> str | None:
        def ask() -> str:
            with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310 (the user's own description)
                return str(answer.read(_MOST_OUTPUT).decode(errors="replace"))

        try:
            return inside(self._netns, ask) if self.tool.inside and self._netns else ask()
        except (urllib.error.URLError, OSError):
            return None

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

    def end(self, limit_s: float | None = None) -> None:
        """Stop the tool as its description says, and wait for its end; kill it when the limit expires.

        The signal goes to its process group, as Ctrl-C in a terminal does. `ended_early` is its status if it had ended.
        """
        self.ended_early = self.process.poll()
        if self.ended_early is None:
            if address := self.tool.output.address:
                self._scraped = self._scrape(address) or ""
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, getattr(signal, f"SIG{self.tool.stop}"))
            try:
                self.process.wait(duration_ns(self.tool.limit) / 1e9 if limit_s is None else limit_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MOST_OUTPUT).decode(errors="replace")


@contextmanager
def running(tool: Description, scope: Scope | None = None) -> Iterator[Running]:
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
        run = Running(tool, process, (out, err), scope.netns)
        try:
            if not _is_ready(run, ready):
                run.end()
                said = reason(run.stderr + run.output)
                if run.ended_early is None:  # it was still running
                    raise RefusedError(f"not ready after {_READY_LIMIT_S:g} s: {said}".rstrip(": "))
                raise RefusedError(said or f"it ended with status {run.ended_early}", run.ended_early)
            yield run
        finally:
            # Kill the tool's whole session: a tshark that is killed leaves dumpcap behind.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)


def _is_ready(run: Running, ready: Any) -> bool:
    tool = run.tool
    if tool.ready.text:
        return run.await_text(tool.ready.text, _READY_LIMIT_S)
    if tool.ready.after:
        run._await(lambda: False, duration_ns(tool.ready.after) / 1e9)  # noqa: SLF001 (part of this module)
        return run.process.poll() is None
    if tool.mentions("ready_fd"):
        return bool(ready.readline())
    return run.await_answer(tool.output.address, _READY_LIMIT_S)


@contextmanager
def running_idle(tool: Description, scope: Scope | None = None) -> Iterator[Running]:
    """Like `running`, but the block starts when the tool is idle. Some tools observe before they are fully started."""
    with running(tool, scope) as run:
        run.await_idle()
        yield run


def _start(tool: Description, scope: Scope, ready_fd: int, folder: Path, **options: Any) -> "subprocess.Popen[bytes]":
    """Start the tool, with `folder` for its temporary files. The kernel kills it when this process dies.

    Its own session keeps Ctrl-C from it.
    """
    own = folder / "files"
    own.mkdir(mode=0o755)
    places = {
        "netns": scope.netns or "/proc/self/ns/net",
        "peer_netns": scope.peer or "/proc/self/ns/net",
        "interface": scope.ifname,
        "port": str(scope.port),
        "local_port": str(scope.lport or ""),
        "client": scope.client,
        "server": scope.server,
        "folder": str(own),
        "ready_fd": str(ready_fd),
    }
    if tool.mentions("kernel_headers") or tool.mentions("include_path"):
        tree = peer_headers.write_tree(Instance.current().path / "peer-headers")
        places |= {"kernel_headers": tree["BCC_KERNEL_SOURCE"], "include_path": tree["CPATH"]}
    name, *arguments = tool.words(places, scope.lport, scope.rport)
    program = shutil.which(name, path=_PATH)
    if program is None:
        raise RefusedError(f"{name} is not installed{f': {tool.install}' if tool.install else ''}", None)
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)}
    environment |= {key: filled(text, places) for key, text in tool.environment.items()}
    if scope.case:
        environment |= {CASE: scope.case}
    fds = (ready_fd,) if tool.mentions("ready_fd") else ()

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            # A job in the background of a script ignores SIGINT, and its children would: a tool must get its Ctrl-C.
            ["/usr/bin/env", "--default-signal", "/usr/bin/setpriv", "--pdeathsig", "KILL", program, *arguments],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=fds,
            env=environment,
            **options,
        )

    return inside(scope.netns, start) if tool.inside and scope.netns else start()


def reason(text: str) -> str:
    """Return the line that explains why a tool ended: the last kernel error, else the last error or line."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" ~^")]
    errors = [line for line in lines if _ERROR.search(line)]
    kernel_errors = [line for line in errors if _KERNEL_ERROR.search(line)]
    return (kernel_errors[-1:] or errors[-1:] or lines[-1:] or [""])[0][:_LONGEST_REASON]


@cache
def refusal(tool: Description, scope: Scope | None = None) -> str | None:
    """Run a tool. Return the reason why it cannot run on this machine, None if it can."""
    try:
        with running(tool, scope):
            return None
    except RefusedError as error:
        return str(error)


@cache
def version(tool: Description) -> str:
    """Return the version that a tool's command prints: the first word with digits and a point, or its first line."""
    if not tool.version:
        return ""
    name, *arguments = tool.version
    program = shutil.which(name, path=_PATH)
    if program is None:
        return ""
    done = subprocess.run(
        [program, *arguments], capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=30
    )
    printed = (done.stdout + done.stderr).strip()
    found = re.search(r"\d+\.\d[\w.+:~-]*", printed)
    return found[0] if found else printed.partition("\n")[0][:60]
