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
    {tls}
    server {{
        listen {ipv4}:{port} {listen};
        listen [{ipv6}]:{port} {listen};
        root .;
        {also}
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
def nginx(host, port, folder, *, http2=False, also=""):
    """Run nginx with two workers on both addresses of the host. It serves the files of its folder.

    HTTP/2 needs the files of `certify` in the folder. `also`: further lines of the configuration of the site.
    """
    how = {"listen": "ssl http2", "tls": "ssl_certificate cert; ssl_certificate_key key;"}
    how = how if http2 else {"listen": "reuseport", "tls": ""}
    (folder / "nginx.conf").write_text(NGINX.format(ipv4=host.ipv4, ipv6=host.ipv6, port=port, also=also, **how))
    program = found("nginx")
    with server(host, port, program, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr", folder=folder) as processes:
        yield processes


HAPROXY = """\
defaults
    mode {mode}
    option {option}
    timeout connect 10s
    timeout client 10s
    timeout server 10s
listen web
    bind {ipv4}:{port}
    bind {ipv6}:{port}
    server one {to}
"""


@contextmanager
def haproxy(host, port, folder, to, mode, option):
    """Run a proxy on both addresses of the host, in a mode of HAProxy (`http`, `tcp`) with an option of that mode."""
    config = HAPROXY.format(mode=mode, option=option, ipv4=host.ipv4, ipv6=host.ipv6, port=port, to=to)
    (folder / "haproxy.cfg").write_text(config)
    with server(host, port, found("haproxy"), "-db", "-f", "haproxy.cfg", folder=folder) as processes:
        yield processes


@contextmanager
def memcached(host, port, folder):
    """Run memcached on both addresses of the host: one thread accepts connections, four others serve them."""
    options = ("-u", "root", "-p", str(port), "-l", f"{host.ipv4},{host.ipv6}")
    with server(host, port, found("memcached"), *options, folder=folder) as processes:
        yield processes


@contextmanager
def rsync(host, port, folder):
    """Run an rsync daemon, which forks for each connection. Its module `files` is a folder of that name."""
    config = f"use chroot = no\nuid = 0\ngid = 0\n[files]\npath = {folder / 'files'}\nread only = no\n"
    (folder / "rsyncd.conf").write_text(config)
    options = ("--daemon", "--no-detach", "--config", "rsyncd.conf", "--port", str(port))
    with server(host, port, found("rsync"), *options, folder=folder) as processes:
        yield processes


@contextmanager
def postgres(host, port, folder):
    """Run a new database on both addresses of the host. It forks for each connection.

    PostgreSQL refuses root. In a user namespace of its own root is another user, with root's files.
    """
    programs = Path(found("postgres")).resolve().parent
    other_user = (found("unshare"), "--user", "--map-user=1000")
    make = (str(programs / "initdb"), "-D", "data", "-A", "trust", "-U", "lab", "--no-sync", "--locale", "C")
    subprocess.run((*other_user, *make), cwd=folder, check=True, capture_output=True)
    (folder / "data" / "pg_hba.conf").write_text("host all all all trust\n")
    addresses = f"{host.ipv4},{host.ipv6}"
    run = (str(programs / "postgres"), "-D", "data", "-p", str(port), "-h", addresses, "-k", "", "-F")
    with server(host, port, *other_user, *run, folder=folder) as processes:
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


def certify(folder):
    """Write a key and a certificate that it signs itself."""
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "cert", "-subj", "/CN=server", "-days", "1")
    request = [found("openssl"), "req", "-x509", "-batch", *key]
    subprocess.run(request, cwd=folder, check=True, capture_output=True)


def found(name):
    """Return the path of a program that `make test-setup` installs. Raises `LabError` if it is missing."""
    path = shutil.which(name, path=f"{Path(sys.prefix) / 'servers/bin'}:{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        raise LabError(f"{name} is missing: run `make test-setup` as root")
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
