"""The probe `duration` where the two directions of a connection pass different interfaces."""

import csv
import io
import re
from functools import partial

import pytest
from pyroute2 import IPRoute
from support.links import await_carrier
from support.processes import parsed, rows_in, watching

from lab.arrays import UNKNOWN
from lab.ebpf.interface import Device
from lab.linux.netns import inside
from lab.observation import Observed
from lab.probes.duration.measure import lifetimes
from lab.recording.recorder import record
from lab.tcp import Ended, Flow, Side
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.truth.durations import one_way, truth_of
from lab.units import MS
from lab.verdict import Bracket

BACK = {"client": "02:00:00:00:01:c1", "server": "02:00:00:00:01:5e"}
PREFIX = {"ipv4": 32, "ipv6": 128}


@pytest.fixture
def asymmetric(net):
    """Add a second link, `eth1` to `eth1`, which takes everything that the server sends to the client."""
    peer = {"ifname": "eth1", "net_ns_fd": net.server.name, "address": BACK["server"]}
    with inside(net.client.name, IPRoute) as netlink:
        netlink.link("add", kind="veth", ifname="eth1", index=201, address=BACK["client"], peer=peer)
        netlink.link("set", index=201, arp=False)
        netlink.link("set", index=201, state="up")
    with inside(net.server.name, IPRoute) as netlink:
        (index,) = netlink.link_lookup(ifname="eth1")
        netlink.link("set", index=index, arp=False)
        netlink.link("set", index=index, state="up")
        for version, length in PREFIX.items():
            address = getattr(net.client, version)
            netlink.route("add", dst=f"{address}/{length}", oif=index)
            netlink.neigh("add", dst=address, lladdr=BACK["client"], ifindex=index, state="permanent")
        await_carrier(netlink, index)
    with inside(net.client.name, IPRoute) as netlink:
        await_carrier(netlink, 201)
    return {Side.CLIENT: net.client.device, Side.SERVER: Device.find("eth1", net.client.name)}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("closer", "how"),
    [("client", "close"), ("server", "close"), ("both", "close"), ("client", "rst"), ("server", "rst")],
)
def test_each_direction_at_its_own_interface(lab, asymmetric, version, closer, how):
    """D6: each interface shows its direction, from its SYN or SYN-ACK to its FIN or RST, and says that it is one.

    A direction that the other side has reset has no end.
    """
    conversation = Conversation(closer=closer, how=how, hold_ns=20 * MS, linger_ns=30 * MS)
    with record("duration", devices=list(asymmetric.values())) as recorder:
        with converse(lab.net, conversation, version=version, connections=2) as demo:
            pass
        end_ns = lab.net.quiesce()
    observed = Observed(lab.net.inodes, recorder.recording, demo.connections, end_ns)
    judge, checks = observed.judge(lab.scenario, "duration"), []
    rows = lifetimes(recorder.recording.events["duration"], end_ns)
    assert len(rows) == 2 * len(demo.connections)
    for row in rows:
        side = next(side for side, device in asymmetric.items() if device.ifindex == row["ifindex"])
        flow = Flow.of(row)
        (connection,) = (connection for connection in demo.connections if connection.client.flow == flow)
        truth, subject = one_way(truth_of(connection, end_ns), side), f"{flow} from the {side.name.lower()}"
        ended = truth.ended[0] if truth.ended else Ended.OPEN
        checks += [
            judge.equal(subject, "only from", side.name if truth.ends else "NOBODY", Side(row["only_from"]).name),
            judge.equal(subject, "ended by", ended.name, Ended(row["ended"]).name),
            judge.equal(subject, "closed first by", "NOBODY", Side(row["closed_first"]).name),
        ]
        if not truth.ends:
            checks.append(judge.equal(subject, "first SYN to first FIN or RST", UNKNOWN, int(row["duration_ns"])))
            continue
        duration = Bracket.between(truth.start, truth.first_end)
        checks += [
            judge.duration(subject, "first SYN at", truth.start, int(row["start_ns"])),
            judge.duration(subject, "first FIN or RST at", truth.first_end, int(row["end_ns"])),
            judge.duration(subject, "first SYN to first FIN or RST", duration, int(row["duration_ns"])),
        ]
    lab.check(checks)


def test_the_tool_names_the_direction(net, asymmetric):
    """D6: the line says which side it is from; so do JSON and CSV."""
    assert asymmetric
    tool = partial(watching, "duration", "--netns", net.client.name)
    with (
        tool("-i", "eth0", "--open") as to_server,
        tool("-i", "eth1") as to_client,
        tool("-i", "eth0", "--json") as as_json,
        tool("-i", "eth1", "--csv") as as_csv,
    ):
        with converse(net, Conversation(hold_ns=5 * MS)) as demo:
            pass
        net.quiesce()
    (flow,) = (connection.client.flow for connection in demo.connections)
    for (errors, text), side in ((to_server, "client"), (to_client, "server")):
        line = text.splitlines()[1]
        assert re.search(rf"{flow.laddr}:{flow.lport} +-> .* Duration: 0\.\d{{9}}  s \| only from {side}$", line), text
        assert (errors, len(text.splitlines())) == ("", 2)
    (row,) = rows_in(as_json[1])
    assert (row["only_from"], row["closed_first"], row["ended"]) == ("client", None, "fin")
    (row,) = csv.DictReader(io.StringIO(as_csv[1]))
    assert (row["only_from"], row["syn_retransmissions"]) == ("server", "")


def test_open_for_longer_than_the_timeout(net, asymmetric):
    """D6: the client's direction alone looks like a timeout; the connection has another line when it ends."""
    assert asymmetric
    with watching("duration", "--netns", net.client.name, "-i", "eth0", "--syn-timeout", "100ms", "--json") as output:
        with converse(net, Conversation(hold_ns=600 * MS)) as demo:
            pass
        net.quiesce()
    ((connect, close),) = (
        [connection.client.find(name) for name in ("connect", "close")] for connection in demo.connections
    )
    first, second = parsed(output)
    assert (first["ended"], first["duration_ns"], first["only_from"]) == ("timeout", None, None)
    assert (second["ended"], second["only_from"]) == ("fin", "client")
    assert close.enter_ns - connect.exit_ns <= second["duration_ns"] <= close.exit_ns - connect.enter_ns
