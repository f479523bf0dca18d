"""A connection whose first SYN is lost, for the tests of the probe and of its mutants."""

import select
import socket
import struct
import time

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD
from support.stamped_sockets import FAMILY, NOBODY, accept

from lab.linux.netns import inside
from lab.observation import Observed
from lab.recording.recorder import record
from lab.tcp import Flow
from lab.timeline import Call, Connection, Timeline

TCP_RETRANSMITS, TCP_TOTAL_RETRANS = 2, 100  # offsets of tcpi_retransmits and tcpi_total_retrans in struct tcp_info


@pytest.fixture(params=[4, 6])
def lost_syn(lab, request):
    """Return the observation of a connection whose first SYNs are lost, and the kernel's count of retransmissions.

    The probe is attached to the client's interface.

    The server gets its address only after the client has retransmitted its SYN. The client's connect() does not block,
    so its time stamps are a bracket of the first SYN only.
    """
    net, version = lab.net, request.param
    address = (NOBODY[version], 9999)
    net.client.knows(address[0], net.server.mac)
    wildcard = ({4: "0.0.0.0", 6: "::"}[version], address[1])  # noqa: S104 (inside the lab's namespace)
    with record("duration", devices=[net.client.device]) as recorder:
        listener = inside(net.server.name, lambda: socket.create_server(wildcard, family=FAMILY[version]))
        raw = inside(net.client.name, lambda: socket.socket(FAMILY[version]))
        raw.settimeout(0)
        timeline = Timeline("client", Flow("", 0, "", 0))
        with listener, raw:
            enter_ns = time.monotonic_ns()
            raw.connect_ex(address)
            timeline.calls.append(Call("connect", enter_ns, time.monotonic_ns()))
            while not tcp_info(raw, TCP_RETRANSMITS, "B"):
                time.sleep(0.01)
            with inside(net.server.name, IPRoute) as netlink:
                prefix = {4: 24, 6: 64}[version]
                flags = {"flags": IFA_F_NODAD} if version == 6 else {}
                netlink.addr("add", index=net.server.ifindex, address=address[0], prefixlen=prefix, **flags)
            server = accept(listener)
            select.select([], [raw], [])
            timeline.flow = Flow(*raw.getsockname()[:2], *address)
            again = tcp_info(raw, TCP_TOTAL_RETRANS, "I")
            time.sleep(0.02)
            enter_ns = time.monotonic_ns()
            raw.close()
            timeline.calls.append(Call("close", enter_ns, time.monotonic_ns()))
        server.recv_until_end()
        server.close()
        end_ns = net.quiesce()
    return Observed(net.inodes, recorder.recording, [Connection(timeline, server.timeline)], end_ns), again


def tcp_info(sock, offset, form):
    return struct.unpack_from(form, sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), offset)[0]
