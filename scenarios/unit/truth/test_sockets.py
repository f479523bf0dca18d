"""Matching of reported sockets with timelines, from hand-made rows."""

import numpy as np
from support.made.states import CLIENT, packed

from lab.timeline import Call, Timeline
from lab.truth.sockets import Socket, Sockets, split

ROW = np.dtype([("socket", "i8"), ("netns", "u4"), ("lport", "u2"), ("rport", "u2"), ("raddr", "u1", 16)])
NETNS = 7


def rows(number, *, netns=NETNS, flow=CLIENT):
    """Return two rows of one socket."""
    found = np.zeros(2, ROW)
    found["socket"], found["netns"], found["lport"], found["rport"] = number, netns, flow.lport, flow.rport
    found["raddr"] = packed(flow.raddr)
    return found


def sockets(*opened_ns):
    """Return sockets of one flow, numbered from 0, that were opened at these times."""
    return Sockets(Socket(rows(number), time_ns) for number, time_ns in enumerate(opened_ns))


def client(enter_ns, exit_ns, end_ns=1000):
    """Return a client with a connect() between these times and a close() at the end."""
    return Timeline("client", CLIENT, calls=[Call("connect", enter_ns, exit_ns), Call("close", end_ns - 1, end_ns)])


def number_of(found):
    """Return the number of the socket, None without one."""
    return None if found is None else int(found["socket"][0])


def test_a_flow_used_again():
    """Each connection gets the last socket that was open when its connect() returned, in any order of entry."""
    found = sockets(90, 20)
    assert [number_of(found.take(NETNS, it)) for it in (client(15, 30, 40), client(10, 100))] == [1, 0]


def test_a_missed_socket():
    """A socket belongs to one connection only: the next connection does not get it."""
    found = sockets(20)
    assert [number_of(found.take(NETNS, it)) for it in (client(15, 30, 40), client(50, 60))] == [0, None]


def test_a_missed_opening():
    """A socket whose opening was missed is found by a later time, up to the application's last call."""
    assert number_of(sockets(500, 700).take(NETNS, client(15, 30))) == 0
    assert number_of(sockets(1001).take(NETNS, client(15, 30))) is None


def test_other_sockets():
    """A socket in another namespace or with another port or peer is not found."""
    others = [
        rows(0, netns=8),
        rows(1, flow=CLIENT._replace(rport=1)),
        rows(2, flow=CLIENT._replace(lport=1)),
        rows(3, flow=CLIENT._replace(raddr="192.0.2.99")),
    ]
    assert Sockets(Socket(other, 20) for other in others).take(NETNS, client(15, 30)) is None


def test_split():
    """Rows are split by socket, and no rows give no sockets."""
    mixed = np.concatenate([rows(1), rows(0), rows(1)])
    assert [part["socket"].tolist() for part in split(mixed)] == [[0, 0], [1, 1, 1, 1]]
    assert split(mixed[:0]) == []
