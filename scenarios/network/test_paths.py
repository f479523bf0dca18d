"""The interfaces on the way: a host, a switch's port, a switch, a router, a device and the one below it."""

from dataclasses import replace

import pytest

from lab.network.description import NETWORKS
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.observation import observe
from lab.plain_view import as_plain
from lab.probes.duration.measure import lifetimes
from lab.tcp import Ended, Side
from lab.traffic.demo.conversation import Conversation
from lab.units import MS
from lab.verdict import Bracket

ABOUT = Conversation(hold_ns=20 * MS, linger_ns=10 * MS, size_bits=400_000)
# Interfaces whose packets carry those of the connection inside, or that no packet of the connection passes.
AROUND = {"vxlan": ("client.under0", "server.under0"), "switch": ("switch.bridge", "switch.client2", "switch.client3")}
PATHS = ("direct", "switch", "router", "hops", "masquerade", "dnat", "nat", "macvlan", "vxlan")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("net", PATHS, indirect=True)
def test_every_interface_on_the_way(lab, request, version):
    """F9: `flows` counts the same packets once at each interface; `duration` has one row, and a true one, at each."""
    aside = AROUND.get(request.node.callspec.params["net"], ())
    hosts = {f"{host}.eth0" for host in lab.net.description.hosts} - {"client.eth0", "server.eth0"}
    way = {name: device for name, device in lab.net.interfaces.items() if name not in hosts}
    observed = as_plain(
        lab.converse(ABOUT, probes=["flows", "duration"], version=version, devices=list(way.values())), lab.net
    )
    judge = observed.judge(request.node.name, "flows")
    totals = observed.recording.totals["flows"]
    (connection,) = observed.connections
    flow = connection.client.flow
    for sport, dport, sent in zip((flow.lport, flow.rport), (flow.rport, flow.lport), observed.sent, strict=True):
        rows = totals[(totals["sport"] == sport) & (totals["dport"] == dport)]
        most = sent.segments + sent.retransmitted
        for name, device in way.items():
            here = rows[rows["ifindex"] == device.ifindex]
            packets = Bracket.exactly(0) if name in aside else Bracket.late(sent.segments, most)
            lab.check([judge.count(f"{sport} -> {dport} at {name}", "packets", packets, int(here["packets"].sum()))])
            assert len(here) == (name not in aside)
    # The judge of `duration` knows hosts only. Without the log of a wire its brackets hold anywhere on the way.
    inode = lab.net.client.inode
    on_way = {device.ifindex: (name, inode) for name, device in way.items() if name not in aside}
    lab.judge("duration", replace(observed, recording=replace(observed.recording, devices=on_way)))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("net", ["masquerade", "dnat", "nat"], indirect=True)
def test_translation(lab, version):
    """The client and the server see the router's address in the place of the other's, as the description says."""
    (connection,) = lab.converse(Conversation(), version=version).connections
    client, server = connection.client.flow, connection.server.flow
    described = lab.net.description
    seen = server.raddr != client.laddr, client.raddr != server.laddr
    assert seen == (bool(described.masquerade), bool(described.forwards))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("net", ["asymmetric"], indirect=True)
def test_asymmetric(lab, version):
    """Requests pass one router only, and replies the other."""
    routers = [device for name, device in lab.net.interfaces.items() if name.startswith("router")]
    observed = lab.converse(Conversation(), probes=["flows"], version=version, devices=routers)
    totals = observed.recording.totals["flows"]
    (connection,) = observed.connections
    ports = (connection.client.flow.lport, connection.client.flow.rport)
    for source, router in zip(ports, ("router", "router2"), strict=True):
        rows = totals[(totals["sport"] == source) & (totals["protocol"] == 6)]
        indexes = {device.ifindex for name, device in lab.net.interfaces.items() if name.partition(".")[0] == router}
        assert set(rows["ifindex"].tolist()) == indexes


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("net", ["asymmetric"], indirect=True)
def test_one_direction(lab, request, version):
    """D6: where one direction passes, `duration` names it, and reports the time from that side's SYN to its FIN."""
    observed = lab.converse(ABOUT, probes=["duration"], version=version)
    judge = observed.judge(request.node.name, "duration")
    rows = lifetimes(observed.recording.events["duration"], observed.end_ns)
    (connection,) = observed.connections
    connect = connection.client.find("connect")
    ways = ((Side.CLIENT, connection.client, "eth0"), (Side.SERVER, connection.server, "eth1"))
    for side, sender, ifname in ways:
        # The FIN leaves in close(). The SYN, or its answer, passes inside connect().
        close = sender.closing
        truth = Bracket.middle(close.enter_ns - connect.exit_ns, observed.end_ns - connect.enter_ns)
        for host in ("client", "server"):
            (row,) = rows[rows["ifindex"] == lab.net.interfaces[f"{host}.{ifname}"].ifindex]
            lab.check(
                [
                    judge.equal(f"{ifname} of the {host}", "only from", side.name, Side(row["only_from"]).name),
                    judge.equal(f"{ifname} of the {host}", "ended by", "FIN", Ended(row["ended"]).name),
                    judge.duration(f"{ifname} of the {host}", "SYN to FIN", truth, int(row["duration_ns"])),
                ]
            )


@pytest.mark.parametrize("name", ["wire", "jumbo", "no-timestamps"])
def test_options(name):
    """The options of a network are seen on its wire: the longest frame, and the length of the TCP header."""
    with (
        topology(Relay(), network=name) as net,
        observe(net, Conversation(size_bits=800_000), probes=["states"]) as observed,
    ):
        pass
    (connection,) = observed.connections
    carried = observed.wire.stream(connection.client.flow).carried
    data = carried[carried["payload"] > 0]
    assert data["length"].max() == NETWORKS[name].mtu + 14
    headers = set((data["length"] - data["payload"]).tolist())
    assert headers == {14 + 20 + (32 if NETWORKS[name].timestamps else 20)}
