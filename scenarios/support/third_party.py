"""Start and end third-party servers and clients on a host of the topology, each server with its own folder."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.linux.netns import inside, tcp_sockets
from lab.tcp import State
from support.processes import descendants

NGINX = """\
daemon off;
user root;
worker_processes 2;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
    client_body_temp_path temporary;
    proxy_temp_path temporary;
    fastcgi_temp_path temporary;
    uwsgi_temp_path temporary;
    scgi_temp_path temporary;
    log_format numbers '$remote_port $request_length $bytes_sent $connection_requests';
    access_log access.log numbers;
    sendfile on;
    server {{
        listen {ipv4}:{port} reuseport;
        listen [{ipv6}]:{port} reuseport;
        root .;
    }}
}}
"""


@dataclass(frozen=True)
class Done:
    """A client that has ended: its output, and times before it was started and after it had ended."""

    pid: int
    output: str
    status: int
    began_ns: int
    ended_ns: int


def client(host, *command, statuses=(0,), limit_s=20.0):
    """Run a client to its end. Fail if it takes longer than `limit_s` seconds or ends with another status."""
    began_ns = time.monotonic_ns()
    with _start(host, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            output, errors = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    ended_ns = time.monotonic_ns()
    assert process.returncode in statuses, f"{command} ended with status {process.returncode}: {errors.decode()}"
    return Done(process.pid, output.decode(), process.returncode, began_ns, ended_ns)


@contextmanager
def server(host, port, *command, folder):
    """Run a server that listens before the block begins; yield a function that returns the ids of its processes.

    The server has its own PID namespace, so all its processes end with it, however this process ends.
    """
    sandbox = (found("unshare"), "--pid", "--fork", "--kill-child", *command)
    with (folder / "log").open("w+") as log, _start(host, sandbox, stdout=log, stderr=log, cwd=folder) as process:
        try:
            _await_listening(host, port, process, folder / "log")
            yield lambda: set(descendants(process.pid)) - {process.pid}
        finally:
            process.kill()
            process.wait()


@contextmanager
def nginx(host, port, folder):
    """Run nginx with two workers on both addresses of the host. It serves the files of its folder."""
    (folder / "nginx.conf").write_text(NGINX.format(ipv4=host.ipv4, ipv6=host.ipv6, port=port))
    program = found("nginx")
    with server(host, port, program, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr", folder=folder) as processes:
        yield processes


@contextmanager
def redis(host, port, folder):
    """Run a Redis server on both addresses of the host, without persistence."""
    program = folder / "redis-server"  # the program acts as a server if it is started under this name
    program.symlink_to(found("redis-check-rdb"))
    options = ["--port", str(port), "--bind", host.ipv4, host.ipv6, "--save", "", "--protected-mode", "no"]
    with server(host, port, str(program), *options, folder=folder) as processes:
        yield processes


@contextmanager
def iperf3(host, port, folder):
    """Run an iperf3 server for both IP versions."""
    with server(host, port, found("iperf3"), "--server", "--port", str(port), folder=folder) as processes:
        yield processes


def found(name):
    """Return the path of a program that `make setup` installs. Raises `LabError` if it is missing."""
    path = shutil.which(name, path=f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        raise LabError(f"{name} is missing: run `make setup` as root")
    return path


def _start(host, command, **options):
    """Start a process in the host's network namespace. The kernel kills it when this process ends."""
    program, *arguments = command
    words = [found("setpriv"), "--pdeathsig", "KILL", found(program), *arguments]
    return inside(host.name, lambda: subprocess.Popen(words, start_new_session=True, **options))


def _await_listening(host, port, process, log, limit_s=20.0):
    deadline = time.monotonic() + limit_s
    suffix = f":{port:04X}"
    while not any(s.state == State.LISTEN and s.local.endswith(suffix) for s in tcp_sockets(host.name)):
        assert process.poll() is None, f"{process.args} ended: {log.read_text()}"
        assert time.monotonic() < deadline, f"{process.args} does not listen: {log.read_text()}"
        time.sleep(0.001)
