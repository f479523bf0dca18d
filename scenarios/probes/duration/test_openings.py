"""The probe `duration` on connections that are not opened by one SYN and one SYN-ACK."""

import select
import socket
import time
from dataclasses import replace

import pytest
from pyroute2 import IPRoute
from support.stamped_sockets import FAMILY, NOBODY

from lab.arrays import UNKNOWN
from lab.ebpf.interface import Device
from lab.linux.netns import inside
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.observation import Observed
from lab.packet import SYN
from lab.probes.duration.measure import lifetimes
from lab.recording.recorder import record
from lab.tcp import SYN_TIMEOUT_NS, Ended, Flow, Side
from lab.timeline import Call, Connection
from lab.traffic.demo.stamped_socket import StampedSocket
from lab.units import MS
from lab.verdict import Bracket

TCP_FASTOPEN_CONNECT = 30


@pytest.mark.parametrize("how", ["close", "shutdown", "reset"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_connected_to_itself(lab, address, how):
    """D7: a socket that is connected to itself has one FIN, which ends both directions."""
    host = lab.net.client
    with record("duration", devices=[Device.find("lo", host.name)]) as recorder:
        family = FAMILY[6 if ":" in address else 4]
        sock = StampedSocket("client", inside(host.name, lambda: socket.socket(family)))
        sock.socket.bind((address, 4000))
        assert sock.connect((address, 4000))
        sock.sleep(5 * MS)
        if how == "shutdown":
            sock.shutdown()
            sock.recv_until_end()
        if how == "reset":
            sock.reset_on_close()
        sock.close()
        end_ns = lab.net.quiesce()
    judge = Observed(lab.net.inodes, recorder.recording, end_ns=end_ns).judge(lab.scenario, "duration")
    (row,) = lifetimes(recorder.recording.events["duration"], end_ns)
    flow = Flow(address, 4000, address, 4000)
    connect, closing = sock.timeline.find("connect"), sock.timeline.closing
    start = Bracket.middle(connect.enter_ns, connect.exit_ns)
    end = Bracket.middle(closing.enter_ns, closing.exit_ns)
    again = int(row["syn_retransmissions"]), int(row["fin_retransmissions"])
    second_fin_ns = UNKNOWN if how == "reset" else int(row["duration_ns"])
    lab.check(
        [
            judge.equal(str(flow), "flow", str(flow), str(Flow.of(row))),
            judge.equal(str(flow), "ended by", "RST" if how == "reset" else "FIN", Ended(row["ended"]).name),
            judge.equal(str(flow), "closed first by", "CLIENT", Side(row["closed_first"]).name),
            judge.equal(str(flow), "SYN and FIN again", str((0, 0)), str(again)),
            judge.duration(str(flow), "first SYN at", start, int(row["start_ns"])),
            judge.duration(str(flow), "first FIN or RST at", end, int(row["end_ns"])),
            judge.duration(
                str(flow), "first SYN to first FIN or RST", Bracket.between(start, end), int(row["duration_ns"])
            ),
            judge.equal(str(flow), "first SYN to second FIN", second_fin_ns, int(row["second_fin_ns"])),
        ]
    )


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("opened_by", ["sendto", "connect"])
def test_fast_open(lab, version, opened_by):
    """The SYN carries data; the duration begins with it, also if connect() has sent nothing (TCP_FASTOPEN_CONNECT)."""
    net, address = lab.net, (lab.net.server.address(version), 9999)
    for host in (net.client, net.server):
        host.sysctl("ipv4/tcp_fastopen", 3)
    connections = []
    with record("duration", devices=net.devices) as recorder:
        listener = inside(net.server.name, lambda: socket.create_server(address, family=FAMILY[version]))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        with listener:
            for how in ("sendto", opened_by):  # the first connection gets the cookie
                client = StampedSocket("client", inside(net.client.name, lambda: socket.socket(FAMILY[version])))
                if how == "connect":
                    client.socket.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
                    client.socket.connect(address)
                    time.sleep(0.01)
                enter_ns = time.monotonic_ns()
                if how == "connect":
                    client.socket.send(b"request")
                else:
                    client.socket.sendto(b"request", socket.MSG_FASTOPEN, address)
                client.timeline.calls.append(Call("connect", enter_ns, time.monotonic_ns()))
                client.identify(address)
                accepted_ns = time.monotonic_ns()
                child, peer = listener.accept()
                server = StampedSocket("server", child)
                server.identify(peer)
                server.recv(7)
                server.send(b"reply")
                client.recv(5)
                # accept() returns before the client has got the SYN-ACK.
                server.timeline.calls.insert(0, Call("accept", accepted_ns, time.monotonic_ns()))
                client.sleep(5 * MS)
                client.close()
                server.recv_until_end()
                server.close()
                connections.append(Connection(client.timeline, server.timeline))
        end_ns = net.quiesce()
    lab.judge("duration", Observed(net.inodes, recorder.recording, connections, end_ns))
    events = recorder.recording.events["duration"]
    syns = events[(events["flags"] == SYN) & (events["ifindex"] == net.client.ifindex)]
    assert syns["payload_length"].tolist() == [0, 7]


@pytest.fixture
def delayed(lab):
    """Return a lab whose wire delays each frame."""
    with topology(Relay()) as net:
        yield replace(lab, net=net)


@pytest.mark.parametrize("version", [4, 6])
def test_simultaneous_open(delayed, version):
    """Both sides connect to each other: their SYNs cross on the wire. Each interface shows its own host left."""
    lab, net = delayed, delayed.net
    net.conditions(*[Conditions(delay_ns=200 * MS)] * 2)
    ends = [(host.address(version), 5000 + number) for number, host in enumerate((net.client, net.server))]
    with record("duration", devices=net.devices) as recorder:
        sockets = [
            StampedSocket("client", inside(host.name, lambda: socket.socket(FAMILY[version])))
            for host in (net.client, net.server)
        ]
        for sock, here, there in zip(sockets, ends, ends[::-1], strict=True):
            sock.socket.bind(here)
            sock.socket.setblocking(False)  # noqa: FBT003 (the socket's own signature)
            enter_ns = time.monotonic_ns()
            sock.socket.connect_ex(there)
            sock.timeline.calls.append(Call("connect", enter_ns, time.monotonic_ns()))
        for sock in sockets:
            select.select([], [sock.socket], [])
            sock.socket.setblocking(True)  # noqa: FBT003 (as above)
        sockets[0].sleep(5 * MS)
        sockets[0].close()
        sockets[1].recv_until_end()
        sockets[1].close()
        end_ns = net.quiesce()
    judge, checks = Observed(net.inodes, recorder.recording, end_ns=end_ns).judge(lab.scenario, "duration"), []
    rows = lifetimes(recorder.recording.events["duration"], end_ns)
    assert len(rows) == 2
    end = Bracket.middle(sockets[0].timeline.closing.enter_ns, sockets[1].timeline.saw_fin.exit_ns)
    sides = (net.client, Side.CLIENT, ends), (net.server, Side.SERVER, ends[::-1])
    for sock, (host, closed_first, (here, there)) in zip(sockets, sides, strict=True):
        (row,) = rows[rows["ifindex"] == host.ifindex]
        flow, connect = Flow(*here, *there), sock.timeline.find("connect")
        start = Bracket.middle(connect.enter_ns, connect.exit_ns)
        checks += [
            judge.equal(str(flow), "flow", str(flow), str(Flow.of(row))),
            judge.equal(str(flow), "ended by", "FIN", Ended(row["ended"]).name),
            judge.equal(str(flow), "only from", "NOBODY", Side(row["only_from"]).name),
            # The client of a row is the sender of the first SYN, which is the host itself.
            judge.equal(str(flow), "closed first by", closed_first.name, Side(row["closed_first"]).name),
            judge.duration(str(flow), "first SYN at", start, int(row["start_ns"])),
            judge.duration(str(flow), "first FIN or RST at", end, int(row["end_ns"])),
        ]
    lab.check(checks)


@pytest.mark.parametrize("version", [4, 6])
def test_icmp_ends_the_attempt(lab, version):
    """An ICMP message ends connect(); the probe sees TCP only, so the row is a timeout without a duration."""
    net = lab.net
    net.client.knows(NOBODY[version], net.server.mac)
    net.server.sysctl({4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}[version], 1)
    with inside(net.server.name, IPRoute) as netlink:
        netlink.route("add", dst=f"{NOBODY[version]}/{ {4: 32, 6: 128}[version] }", type="prohibit")
    with record("duration", devices=net.devices) as recorder:
        client = StampedSocket("client", inside(net.client.name, lambda: socket.socket(FAMILY[version])))
        assert not client.connect((NOBODY[version], 9999))
        client.close()
        end_ns = net.quiesce()
    assert client.timeline.find("connect").error in {"EHOSTUNREACH", "EACCES"}
    lab.judge("duration", Observed(net.inodes, recorder.recording, [Connection(client.timeline, None)], end_ns))
    rows = lifetimes(recorder.recording.events["duration"], end_ns + 2 * SYN_TIMEOUT_NS)
    assert set(rows["ended"]) == {Ended.TIMEOUT}
    assert set(rows["duration_ns"]) == {UNKNOWN}
