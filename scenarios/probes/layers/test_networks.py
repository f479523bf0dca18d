"""`lab layers` on networks that forward, translate and drop."""

import socket
import struct

import pytest
from support.connections import PORT, connection
from support.packet_taps import await_that
from support.processes import rows_in, watching
from support.router import HOST, IFNAME, deaf, host_behind

from lab.linux.netns import inside
from lab.network import nat
from lab.probes.layers.stages import LAYERS


def exchange(near, far, times=3):
    """Exchange requests of 100 bytes and replies of 50 bytes."""
    for _ in range(times):
        near.send(bytes(100))
        assert len(far.recv(1000)) == 100
        far.send(bytes(50))
        assert len(near.recv(1000)) == 50


def rows_of(output):
    """Return the rows of the live tool."""
    return rows_in(output[1])


def test_a_forwarding_host(net):
    """Q7: a packet that a watched router forwards is sent once, and is no retransmission."""
    client, router = net.client.name, net.server.name
    options = ("--json", "--netns", client, "--peer-netns", router, "--peer-interface", IFNAME)
    with (
        host_behind(net) as server,
        watching("layers", *options) as output,
        watching("layers", "--packets", *options) as packets,
    ):
        with connection(client, server, HOST) as ends:
            exchange(*ends)
        net.quiesce()
    rows = rows_of(output)
    assert [(row["request_sent"], row["request_resend_ns"], row["reply_resend_ns"]) for row in rows] == [
        (1, 0, None)
    ] * 3
    assert all(row["reply_sent"] == 1 for row in rows)
    assert all(row["request_wire_ns"] is None for row in rows)
    sent = [row for row in rows_of(packets) if row["destination_port"] == PORT]
    assert [(row["length"], row["fate"], row["resend_ns"]) for row in sent] == [(100, "not seen", 0)] * 3


def test_an_address_translation(net):
    """Q6: a request to a host behind a translation is one row, with all layers of both hosts, and that is said."""
    client = net.client.name
    with host_behind(net) as server:
        inside(net.server.name, lambda: nat.masquerade(IFNAME))
        options = ("--json", "--netns", client, "--peer-netns", server)
        with watching("layers", *options) as output, watching("layers", "--packets", *options) as packets:
            with connection(client, server, HOST) as (near, far):
                assert far.getpeername()[0] != near.getsockname()[0]
                exchange(near, far)
                name = near.getsockname()
            net.quiesce()
    rows = rows_of(output)
    assert [((row["client_address"], row["client_port"]), row["server_address"]) for row in rows] == [(name, HOST)] * 3
    assert all(row[f"{leg}_{layer}_ns"] is not None for row in rows for leg in ("request", "reply") for layer in LAYERS)
    assert all(row["elsewhere_ns"] == 0 for row in rows)
    translated = "lab: connections through an address translation, shown with the addresses that their clients use: 1\n"
    assert output[0] == packets[0] == translated
    assert [row["fate"] for row in rows_of(packets)] == ["delivered"] * 6


@pytest.mark.parametrize("stamps", [0, 1])
def test_a_packet_that_the_filter_dropped(net, stamps):
    """Q9: a packet that netfilter dropped in INPUT is not accepted, with and without TCP time stamps."""
    for host in (net.client, net.server):
        host.sysctl("ipv4/tcp_timestamps", stamps)
    client, server = net.client.name, net.server.name
    with watching("layers", "--packets", "--json", "--netns", client, "--peer-netns", server) as output:
        with connection(client, server, net.server.ipv4) as (near, far):
            exchange(near, far, 1)
            with deaf(server):
                near.send(bytes(70))
                await_that(lambda: retransmitted(near) > 0)
            assert len(far.recv(1000)) == 70
        net.quiesce()
    fates = [(row["fate"], row["ip_ns"] is None) for row in rows_of(output) if row["length"] == 70]
    assert len(fates) >= 2
    assert set(fates[:-1]) == {("not accepted", True)}
    assert fates[-1] == ("delivered", False)


def retransmitted(sock):
    """Return how many segments a socket has retransmitted: `tcpi_total_retrans` of `struct tcp_info`."""
    return struct.unpack_from("=I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 100)[0]
