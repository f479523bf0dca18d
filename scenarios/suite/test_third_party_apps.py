"""Third-party programs as traffic: the probes must be right about them and agree with each other.

The truth comes from the programs and the hosts: curl's times and sizes, nginx's log, iperf3's report, the counters of
Redis and of the hosts, and the times before each client was started and after it had ended.
"""

import json
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from support import cross_checks, kernel_abilities, third_party, third_party_truth
from support.third_party_truth import End, Logged

from lab import probes
from lab.ebpf.program import Program
from lab.linux.tcp_counters import tcp_sent
from lab.observation import Observed
from lab.probes.analyse.measure import Kind, joined
from lab.probes.duration.measure import lifetimes
from lab.probes.flows.measure import Direction
from lab.recording.recorder import record
from lab.tcp import Ended, Flow
from lab.verdict import Bracket

HTTP, IPERF3, REDIS, TLS, PROXY, MEMCACHED, POSTGRES, RSYNC = 8080, 5201, 6379, 8443, 8081, 11211, 5432, 8730
US = 1000


@contextmanager
def observing(net):
    """Record the block with all probes; afterwards check that no event was lost and that the probes agree."""
    observed = Observed(net.inodes)
    hosts = (net.client.name, net.server.name)
    # `packets` records one port by default; 0 stands for all.
    all_ports = {"packets": Program.load("packets", ("PORT=0",))}
    with record(*set(probes.here()) - set(all_ports), programs=all_ports, devices=net.devices) as recorder:
        before = [tcp_sent(host) for host in hosts]
        yield observed
        observed.end_ns = net.quiesce()
        client, server = (tcp_sent(host).since(then) for host, then in zip(hosts, before, strict=True))
        observed.sent = client, server
    observed.recording = recorder.recording
    cross_checks.nothing_is_lost(observed.recording)
    cross_checks.hold(cross_checks.seen(observed.recording, observed.inodes))


def test_curl_and_nginx(lab, tmp_path):
    """Connections with one and many requests, closed by either side, 5 MB by sendfile(), and an aborted one."""
    for name, size in (("small", 200), ("big", 5_000_000), ("endless", 1 << 30)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    net, fetched = lab.net, []
    with third_party.nginx(net.server, HTTP, tmp_path) as processes, observing(net) as observed:
        for version in (4, 6):
            fetched += curl(net, version, ["small", "big", *["small"] * 8], closers=("client",))
            fetched += curl(net, version, ["small", "big"], "-H", "Connection: close", closers=("client", "server"))
        # close() sends a RST because curl has not read all data.
        impatient = ("--limit-rate", "1M", "--max-time", "0.1")
        fetched += curl(net, 4, ["endless"], *impatient, closers=("client",), ended=(Ended.RST,))
        servers = processes()
    assert len(fetched) == 7
    logged = [tuple(map(int, line.split())) for line in (tmp_path / "access.log").read_text().splitlines()]
    lab.check(third_party_truth.checks(observed, lab.scenario, list(logged_by_both(fetched, logged, servers))))


class Fetched(NamedTuple):
    """One connection: curl's report of each transfer, and the expected end."""

    done: third_party.Done
    replies: list[dict]
    closers: tuple[str, ...]
    ended: tuple[Ended, ...]


def curl(net, version, names, *options, closers, ended=(Ended.FIN,)):
    """Fetch files one after the other; return each connection."""
    base = f"http://{in_url(net.server, version)}:{HTTP}"
    urls = [word for name in names for word in ("-o", "/dev/null", f"{base}/{name}")]
    statuses = (28,) if Ended.RST in ended else (0,)
    done = third_party.client(net.client, "curl", "-q", "-gs", *options, "-w", "%{json}\n", *urls, statuses=statuses)
    replies = [json.loads(line) for line in done.output.splitlines()]
    assert len(replies) == len(names)
    ports = dict.fromkeys(reply["local_port"] for reply in replies)
    return [Fetched(done, [it for it in replies if it["local_port"] == port], closers, ended) for port in ports]


def logged_by_both(fetched, logged, servers):
    """Yield each connection from the logs of curl and nginx. Curl's times are microseconds since the transfer began."""
    for done, replies, closers, ended in fetched:
        first, within_ns = replies[0], done.ended_ns - done.began_ns
        flow = Flow(first["local_ip"], first["local_port"], first["remote_ip"], first["remote_port"])
        answers = [line for line in logged if line[0] == flow.lport]
        read = sum(reply["size_header"] + reply["size_download"] for reply in replies)
        requested, written = sum(line[1] for line in answers), sum(line[2] for line in answers)
        assert requested == sum(reply["size_request"] for reply in replies)
        begun, opened, answered = (us(first, f"time_{what}") for what in ("namelookup", "connect", "starttransfer"))
        # Curl closes after the last transfer. A server that closes can send its FIN before curl stops measuring the
        # request.
        transfers_ns = sum(us(reply, "time_total") for reply in replies) - opened - len(replies) * US
        least = 0 if "server" in closers else transfers_ns
        yield Logged(
            flow=flow,
            client=End("curl", {done.pid}, opened - begun + US, written=requested, read=Bracket.exactly(requested)),
            server=End("nginx", servers, answered - begun + US, written=written, read=Bracket.exactly(read)),
            within=(done.began_ns, done.ended_ns),
            duration=Bracket.early(least, within_ns),
            closers=closers,
            ended=ended,
        )


def us(reply, name):
    """Return one of curl's times in nanoseconds. Curl truncates it to microseconds."""
    return round(reply[name] * 1e6) * US


def test_iperf3(lab, tmp_path):
    """Two streams of 20 MB, with sendfile() over IPv4 and write() over IPv6: super-packets, partial writes."""
    net, connections = lab.net, []
    with third_party.iperf3(net.server, IPERF3, tmp_path) as processes, observing(net) as observed:
        for version, way in ((4, "--zerocopy"), (6, "--reverse")):
            words = ("--client", net.server.address(version), "--port", str(IPERF3), way, "--parallel", "2")
            done = third_party.client(net.client, "iperf3", *words, "--bytes", "40M", "--json")
            connections += logged_by_iperf3(done, processes())
    assert len(connections) == 4
    lab.check(third_party_truth.checks(observed, lab.scenario, connections))


def logged_by_iperf3(done, servers):
    """Yield the connection of each stream from iperf3's report, which does not contain the control connection."""
    report = json.loads(done.output)
    within_ns = done.ended_ns - done.began_ns
    for ends, stream in zip(report["start"]["connected"], report["end"]["streams"], strict=True):
        # The client begins each stream with the test's cookie and its final NUL (Nwrite() in iperf_connect()).
        cookie = len(report["start"]["cookie"]) + 1
        written, read = stream["sender"]["bytes"], stream["receiver"]["bytes"]
        to_client = bool(report["start"]["test_start"]["reverse"])
        # A receiving client continues to read after it has stopped counting (iperf_run_client()).
        data = {"written": written, "read": Bracket.early(read, written if to_client else read)}
        opening = {"written": cookie, "read": Bracket.exactly(cookie)}
        if to_client:
            sent = (opening, data)
        else:
            sent = (
                {"written": cookie + written, "read": Bracket.exactly(cookie + read)},
                {"written": 0, "read": Bracket.exactly(0)},
            )
        # Both ends stop measuring before either closes.
        least = round(min(stream[end]["seconds"] for end in ("sender", "receiver")) * 1e6 - 1) * US
        yield Logged(
            flow=Flow(ends["local_host"], ends["local_port"], ends["remote_host"], ends["remote_port"]),
            client=End("iperf3", {done.pid}, within_ns, **sent[0]),
            server=End("iperf3", servers, within_ns, **sent[1]),
            within=(done.began_ns, done.ended_ns),
            duration=Bracket.early(least, within_ns),
            closers=("client", "server"),
            ended=(Ended.FIN, Ended.RST),  # RST if the server closes with unread data
        )


def test_redis(lab, tmp_path):
    """Many requests on few connections, and one on each of many: connections and bytes are those Redis counts."""
    net, clients = lab.net, []
    with third_party.redis(net.server, REDIS, tmp_path) as processes, observing(net) as observed:
        for version, load in ((4, "-n 500 -c 10 -d 10000 -t set,get"), (6, "-n 200 -c 5 -k 0 -t set")):
            words = ("redis-benchmark", "-h", net.server.address(version), "-p", str(REDIS), "--csv", *load.split())
            clients.append((words[0], third_party.client(net.client, *words)))
        asks = third_party.client(net.client, "redis-cli", "-h", net.server.ipv4, "info", "stats")
        clients.append(("redis-cli", asks))
        servers = processes()
    lab.check(redis_totals(lab, observed, asks.output))
    connections = list(logged_by_times(observed, clients, End("redis-server", servers, 0)))
    lab.check(third_party_truth.checks(observed, lab.scenario, connections))


def redis_totals(lab, observed, answer):
    """Yield checks of the probes' totals of all connections against the counters of Redis."""
    counted = dict(line.split(":") for line in answer.split() if ":" in line)
    connections = int(counted["total_connections_received"])
    to_server, to_client = (int(counted[f"total_net_{way}_bytes"]) for way in ("input", "output"))
    # The counters do not include this answer: `$<length>`, the lines, each with its end, and one more end (RESP).
    text = answer.rstrip().encode() + b"\r\n"
    to_client += len(b"$%d\r\n%b\r\n" % (len(text), text))

    judge = observed.judge(lab.scenario, "duration")
    rows = lifetimes(observed.recording.events["duration"], observed.end_ns)
    for ifindex in observed.recording.devices:
        yield judge.equal(f"interface {ifindex}", "connections", connections, int((rows["ifindex"] == ifindex).sum()))

    judge, totals = observed.judge(lab.scenario, "flows"), observed.recording.totals["flows"]
    for port, payload, again in (
        ("dport", to_server, observed.sent[0].retransmitted),
        ("sport", to_client, observed.sent[1].retransmitted),
    ):
        for direction in Direction:
            mine = totals[(totals[port] == REDIS) & (totals["direction"] == direction)]
            bracket = Bracket.early(payload, payload + again * third_party_truth.MTU)
            subject = f"{port} {REDIS}, {direction.name}"
            yield judge.count(subject, "payload bytes", bracket, int(mine["payload_bytes"].sum()))

    judge, steps = observed.judge(lab.scenario, "analyse"), joined(observed.recording.events["analyse"])
    for inode, sent, received in zip(observed.inodes, (to_server, to_client), (to_client, to_server), strict=True):
        rows = steps[steps["netns"] == inode]
        for kind, payload in (
            (Kind.SEND, sent),
            (Kind.SENT, sent),
            (Kind.RECEIVE, received),
            (Kind.RECEIVED, received),
        ):
            if kind in (Kind.SENT, Kind.RECEIVED) and not kernel_abilities.is_told():
                continue
            subject = f"steps {kind.name} of all sockets"
            yield judge.equal(subject, "bytes", payload, third_party_truth.results(rows, kind))


def test_openssl(lab, tmp_path):
    """TLS: curl fetches files from `openssl s_server`, which closes after each."""
    for name, size in (("small", 200), ("big", 2_000_000)):
        (tmp_path / name).write_bytes(bytes(size))
    third_party.certify(tmp_path)
    net, clients = lab.net, []
    serve = ("openssl", "s_server", "-accept", str(TLS), "-key", "key", "-cert", "cert", "-WWW", "-quiet")
    with third_party.server(net.server, TLS, *serve, folder=tmp_path) as processes, observing(net) as observed:
        for version, name in ((4, "small"), (6, "big"), (4, "big")):
            url = f"https://{in_url(net.server, version)}:{TLS}/{name}"
            words = ("curl", "-q", "-gsk", "--fail", "-o", str(tmp_path / "read"), url)
            clients.append(("curl", third_party.client(net.client, *words)))
            assert (tmp_path / "read").read_bytes() == (tmp_path / name).read_bytes()
        server = End("openssl", processes(), 0)
    by_times(lab, observed, clients, server, connections=len(clients))


def test_http_2(lab, tmp_path):
    """Nginx and curl over TLS: the streams of four small and four big files share one connection."""
    for name, size in (("small", 200), ("big", 3_000_000)):
        (tmp_path / name).write_bytes(bytes(size))
    third_party.certify(tmp_path)
    net, clients = lab.net, []
    with third_party.nginx(net.server, TLS, tmp_path, http2=True) as processes, observing(net) as observed:
        for version in (4, 6):
            base = f"https://{in_url(net.server, version)}:{TLS}"
            urls = [word for name in ["small", "big"] * 4 for word in ("-o", "/dev/null", f"{base}/{name}")]
            words = ("curl", "-q", "-gsk", "--fail", "--http2", "--parallel", *urls, "-w", "%{http_version}\n")
            clients.append(("curl", third_party.client(net.client, *words)))
            assert clients[-1][1].output.split() == ["2"] * 8
        server = End("nginx", processes(), 0)
    by_times(lab, observed, clients, server, connections=2)


@pytest.mark.parametrize(("mode", "option"), [("http", "http-server-close"), ("tcp", "splice-auto")])
def test_haproxy(lab, tmp_path, mode, option):
    """A proxy at the server, in front of nginx at the client: it passes on requests, or bytes by splice()."""
    (tmp_path / "big").write_bytes(bytes(3_000_000))
    net, clients = lab.net, []
    with (
        third_party.nginx(net.client, HTTP, tmp_path),
        third_party.haproxy(
            net.server, PROXY, tmp_path, to=f"{net.client.ipv4}:{HTTP}", mode=mode, option=option
        ) as processes,
        observing(net) as observed,
    ):
        for version in (4, 6, 4):
            url = f"http://{in_url(net.server, version)}:{PROXY}/big"
            words = ("curl", "-q", "-gs", "--fail", "-o", str(tmp_path / "read"), url)
            clients.append(("curl", third_party.client(net.client, *words)))
            assert (tmp_path / "read").read_bytes() == (tmp_path / "big").read_bytes()
        server = End("haproxy", processes(), 0)
    by_times(lab, observed, clients, server, connections=3, port=PROXY)


ASK_MEMCACHED = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    answers = connection.makefile("rb")
    for size in 10, 100_000:
        connection.sendall(b"set %d 0 0 %d\\r\\n%b\\r\\n" % (size, size, bytes(size)))
        assert answers.readline() == b"STORED\\r\\n"
    connection.sendall(b"get 10\\r\\nget 100000\\r\\n" * 5)
    for size in (10, 100_000) * 5:
        assert answers.readline() == b"VALUE %d 0 %d\\r\\n" % (size, size)
        assert answers.read(size + 7) == bytes(size) + b"\\r\\nEND\\r\\n"
"""


def test_memcached(lab, tmp_path):
    """One thread accepts each connection, and another serves it; ten requests are in flight at once."""
    net, clients = lab.net, []
    with third_party.memcached(net.server, MEMCACHED, tmp_path) as processes, observing(net) as observed:
        for version in (4, 6) * 4:
            words = (sys.executable, "-I", "-c", ASK_MEMCACHED, net.server.address(version), str(MEMCACHED))
            clients.append((Path(sys.executable).name, third_party.client(net.client, *words)))
        server = End("memcached", processes(), 0)
    by_times(lab, observed, clients, server, connections=8)


def test_postgres(lab, tmp_path):
    """pgbench: a process of the server for each connection, with requests by turns and pipelined."""
    (tmp_path / "one").write_text("select 1;\n")
    (tmp_path / "many").write_text("\\startpipeline\n" + "select 1;\n" * 10 + "\\endpipeline\n")
    net, clients = lab.net, []
    with third_party.postgres(net.server, POSTGRES, tmp_path), observing(net) as observed:
        for version, script in ((4, "one"), (6, "many")):
            load = ("-n", "-M", "extended", "-c", "3", "-t", "50", "-f", str(tmp_path / script))
            there = ("-h", net.server.address(version), "-p", str(POSTGRES), "-U", "lab", "postgres")
            clients.append(("pgbench", third_party.client(net.client, "pgbench", *load, *there)))
            assert "number of transactions actually processed: 150/150" in clients[-1][1].output
    # pgbench asks for the version of the server on a connection of its own.
    by_times(lab, observed, clients, End("postgres", None, 0), connections=8)


def test_rsync(lab, tmp_path):
    """Client and daemon fork; files are copied to the client and to the server."""
    files = tmp_path / "files"
    files.mkdir()
    for number in range(30):
        (files / str(number)).write_bytes(bytes(number * 5000))
    net, clients = lab.net, []
    with third_party.rsync(net.server, RSYNC, tmp_path), observing(net) as observed:
        for version in (4, 6):
            there = f"rsync://{in_url(net.server, version)}:{RSYNC}/files/"
            got = tmp_path / f"got{version}"
            ways = ((there, str(got)), (f"{got}/", f"{there}sent{version}/"))
            clients += [("rsync", third_party.client(net.client, "rsync", "-r", *way)) for way in ways]
            assert (files / f"sent{version}" / "29").read_bytes() == (files / "29").read_bytes()
    by_times(lab, observed, clients, End("rsync", None, 0), connections=4, forks=True)


def in_url(host, version):
    """Return a host's address as URLs have it."""
    return {4: host.ipv4, 6: f"[{host.ipv6}]"}[version]


def by_times(lab, observed, clients, server, *, connections, port=0, forks=False):
    """Check all that is known of programs that log nothing of their connections; either side can have closed first."""
    sides = ("client", "server")
    logged = list(logged_by_times(observed, clients, server, closers=sides, port=port, forks=forks))
    assert len(logged) == connections
    lab.check(third_party_truth.checks(observed, lab.scenario, logged))


def logged_by_times(observed, clients, server, closers=("client",), port=0, *, forks=False):
    """Yield each connection to the server's port (0: any) that the client's interface has seen.

    Known are its client, when it ran, whether it forks, and which sides can have closed first.
    """
    rows = lifetimes(observed.recording.events["duration"], observed.end_ns)
    rows = rows[np.isin(rows["dport"], port or rows["dport"])]
    for row in rows[rows["ifindex"] == min(observed.recording.devices)]:
        comm, done = next((comm, done) for comm, done in clients if done.began_ns <= row["start_ns"] <= done.ended_ns)
        within_ns = done.ended_ns - done.began_ns
        yield Logged(
            flow=Flow.of(row),
            client=End(comm, None if forks else {done.pid}, within_ns),
            server=replace(server, opened_ns=within_ns),
            within=(done.began_ns, done.ended_ns),
            duration=Bracket.middle(0, within_ns),
            closers=closers,
        )
