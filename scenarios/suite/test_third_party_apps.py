"""Third-party programs as traffic: the probes must be right about them and agree with each other.

The truth comes from the programs and the hosts: curl's times and sizes, nginx's log, iperf3's report, the counters of
Redis and of the hosts, and the times before each client was started and after it had ended.
"""

import json
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

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

HTTP, IPERF3, REDIS, TLS = 8080, 5201, 6379, 8443
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
    host = {4: net.server.ipv4, 6: f"[{net.server.ipv6}]"}[version]
    urls = [word for name in names for word in ("-o", "/dev/null", f"http://{host}:{HTTP}/{name}")]
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
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "cert", "-subj", "/CN=server", "-days", "1")
    request = [third_party.found("openssl"), "req", "-x509", "-batch", *key]
    subprocess.run(request, cwd=tmp_path, check=True, capture_output=True)
    net, clients = lab.net, []
    serve = ("openssl", "s_server", "-accept", str(TLS), "-key", "key", "-cert", "cert", "-WWW", "-quiet")
    with third_party.server(net.server, TLS, *serve, folder=tmp_path) as processes, observing(net) as observed:
        for version, name in ((4, "small"), (6, "big"), (4, "big")):
            host = {4: net.server.ipv4, 6: f"[{net.server.ipv6}]"}[version]
            words = ("curl", "-q", "-gsk", "--fail", "-o", str(tmp_path / "read"), f"https://{host}:{TLS}/{name}")
            clients.append(("curl", third_party.client(net.client, *words)))
            assert (tmp_path / "read").read_bytes() == (tmp_path / name).read_bytes()
        server = End("openssl", processes(), 0)
    connections = list(logged_by_times(observed, clients, server, closers=("client", "server")))
    assert len(connections) == len(clients)
    lab.check(third_party_truth.checks(observed, lab.scenario, connections))


def logged_by_times(observed, clients, server, closers=("client",)):
    """Yield each connection that the client's interface has seen.

    Known are its client, when it ran, and which sides can have closed first.
    """
    rows = lifetimes(observed.recording.events["duration"], observed.end_ns)
    for row in rows[rows["ifindex"] == min(observed.recording.devices)]:
        comm, done = next((comm, done) for comm, done in clients if done.began_ns <= row["start_ns"] <= done.ended_ns)
        within_ns = done.ended_ns - done.began_ns
        yield Logged(
            flow=Flow.of(row),
            client=End(comm, {done.pid}, within_ns),
            server=replace(server, opened_ns=within_ns),
            within=(done.began_ns, done.ended_ns),
            duration=Bracket.middle(0, within_ns),
            closers=closers,
        )
