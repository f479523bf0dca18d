"""The demo client and server as processes in the hosts' namespaces, and their timelines."""

import os
import selectors
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import IO, Self

from lab import clock
from lab.errors import LabError
from lab.network.topology import Host, Topology
from lab.paths import LAB
from lab.timeline import FAST_OPEN, Connection, Timeline, pair
from lab.traffic.demo.conversation import PORT, Conversation

# A fixed limit, and a part for each connection, which takes 5 ms on a machine that emulates every instruction.
_LIMIT_S, _EACH_S = 60.0, 0.02
_PRIORITY = {"serve": "2", "connect": "1"}
_FOR_BOTH = 3  # ip-sysctl, tcp_fastopen: at clients and at servers


class Endpoint:
    """A process of `lab serve` or `lab connect` in a namespace. It ends at the latest with this process."""

    def __init__(self, command: str, host: Host, arguments: list[str]) -> None:
        self._command = command
        read, write = os.pipe()
        self._ready = os.fdopen(read)
        line = [
            *_priority(command),
            *LAB,
            command,
            "--netns",
            host.name,
            "--json",
            "--ready-fd",
            str(write),
        ]
        try:
            self._process = subprocess.Popen(
                [*line, "--parent", str(os.getpid()), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(write,),
                encoding="utf-8",
                # Ctrl-C of a terminal must reach the lab only, which ends its endpoints in order.
                start_new_session=True,
            )
        finally:
            os.close(write)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def await_ready(self, limit_s: float = _LIMIT_S) -> None:
        """Wait until the server listens, or until every connection has paused.

        The limit detects a process that hangs. It is long because 20 s were too short in an emulated guest on a busy
        machine.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._ready, selectors.EVENT_READ)
            if not selector.select(limit_s):
                raise LabError(f"lab {self._command} was not ready within {limit_s:g} s")
        if not self._ready.readline():
            self.finish()
            raise LabError(f"lab {self._command} ended before it was ready")

    def resume(self) -> None:
        """Let paused connections continue."""
        _stdin(self._process).write("\n")
        _stdin(self._process).flush()

    def finish(self, limit_s: float = _LIMIT_S) -> list[Timeline]:
        """Wait for the end of the process and return its timelines. Raises `LabError` with its message if it failed."""
        try:
            out, err = self._process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, err = self._process.communicate()
            raise LabError(f"lab {self._command} did not end within {limit_s:g} s{_quoted(err)}") from None
        if self._process.returncode != 0:
            raise LabError(f"lab {self._command} ended with status {self._process.returncode}{_quoted(err)}")
        return [Timeline.from_json(line) for line in out.splitlines()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ready.close()
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream:
                stream.close()


class Demo:
    """A running client and server. `connections` has their timelines after the `converse` block."""

    def __init__(self) -> None:
        self.client: Endpoint
        self.server: Endpoint | None = None
        self.connections: list[Connection] = []

    def await_pause(self) -> None:
        """Wait until every connection has made its exchanges and waits for `resume`."""
        self.client.await_ready()
        if self.server:
            self.server.await_ready()

    def resume(self) -> None:
        """Let both sides continue after the pause."""
        self.client.resume()
        if self.server:
            self.server.resume()


@contextmanager
def converse(
    net: Topology,
    conversation: Conversation,
    *,
    version: int = 4,
    listen: str | None = None,
    connections: int = 1,
    concurrency: int | None = None,
    port: int = PORT,
    rate: float | None = None,
    source_port: int = 0,
    pause: bool = False,
    serve: bool = True,
) -> Iterator[Demo]:
    """Run a server and a client during the block. At its end both have ended.

    - `listen` is the address that the server binds; by default the host's address of the IP `version`.
    - `serve=False` leaves the port closed.
    - `pause` makes every connection wait for `Demo.resume` after its exchanges.
    """
    demo = Demo()
    if conversation.opening == FAST_OPEN:
        for host in (net.client, net.server):
            host.sysctl("ipv4/tcp_fastopen", _FOR_BOTH)
    common = [*conversation.arguments(), "--port", str(port), "--connections", str(connections)]
    if pause:
        common.append("--pause")
    with ExitStack() as stack:
        if serve:
            where = ["--address", listen or net.server.address(version)]
            demo.server = stack.enter_context(Endpoint("serve", net.server, [*common, *where]))
            demo.server.await_ready()
        arguments = [*common, "--source-port", str(source_port), net.target.address(version)]
        if concurrency:
            arguments += ["--concurrency", str(concurrency)]
        if rate:
            arguments += ["--rate", str(rate)]
        demo.client = stack.enter_context(Endpoint("connect", net.client, arguments))
        yield demo
        limit_s = _LIMIT_S + connections * _EACH_S
        timelines = demo.client.finish(limit_s)
        if demo.server:
            timelines += demo.server.finish(limit_s)
        demo.connections = pair(timelines, net.description.translated)


def _priority(command: str) -> list[str]:
    """Return the words that start a command with real-time priority, on the virtual clock only.

    A guest with a virtual clock has one CPU. There the demo must not wait for the recording, nor the server's close()
    for the client that writes its timeline.
    """
    return ["chrt", "--fifo", _PRIORITY[command]] if clock.of_guest() == clock.VIRTUAL else []


def _stdin(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdin is not None  # noqa: S101 (Popen was asked for a pipe)
    return process.stdin


def _quoted(text: str) -> str:
    return f": {text.strip().splitlines()[-1]}" if text.strip() else ""
