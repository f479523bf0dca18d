"""How connections open: the connect time, the destination and the outcome of connect() and accept().

C1, C2 and S8 are rows of the corpus of known wrong numbers.
"""

import ctypes
import errno
import select
import signal
import socket
import struct
import time
from contextlib import contextmanager

import pytest
from support.analysed import PORT, analysed, listener_in, of_host, socket_in
from support.stamped_sockets import FAMILY, NOBODY

from lab.probes.analyse import text
from lab.verdict import Bracket, Judge

TCP_FASTOPEN_CONNECT = 30
FAST_OPEN = 1 | 2 | 4 | 0x200 | 0x400
"""net.ipv4.tcp_fastopen: client and every listener, without a cookie (Documentation/networking/ip-sysctl.rst)."""

both_versions = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture
def judged(lab):
    """Return a function that compares the only connect time in the rows with an interval of time stamps."""

    def check(rows, enter_ns, exit_ns):
        (measured_ns,) = {row["connect_time_ns"] for row in rows if row["state"] == "ESTABLISHED"}
        judge = Judge(lab.scenario, "analyse", "")
        lab.check([judge.duration("client", "connect time", Bracket.middle(0, exit_ns - enter_ns), measured_ns)])

    return check


@pytest.fixture
def fast_open(net):
    """Let both hosts send and accept data in a SYN."""
    for host in (net.client, net.server):
        host.sysctl("ipv4/tcp_fastopen", str(FAST_OPEN))


def returned(rows, step="connect"):
    """Return the descriptions of the returns of a system call, without the times."""
    return [text.description(row).split(", after")[0] for row in rows if row["step"] == step and row["returns"]]


@both_versions
@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.usefixtures("fast_open")
def test_fast_open_connect(net, judged, version, blocking):
    """C1: with TCP_FASTOPEN_CONNECT the first send() sends the SYN: the connect time begins there, not in connect()."""
    with analysed(net) as rows, listener_in(net.server, version), socket_in(net.client, version) as client:
        client.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        client.setblocking(blocking)
        client.connect((net.server.address(version), PORT))
        time.sleep(0.05)
        enter_ns = time.monotonic_ns()
        client.send(b"early")
        select.select([], [client], [])
        client.send(b"late")
        exit_ns = time.monotonic_ns()
    mine = of_host(rows, net.client)
    judged(mine, enter_ns, exit_ns)
    assert returned(mine) == ["connect() returned before any SYN was sent"]
    assert {row["connect_time_ns"] for row in mine if row["state"] == "SYN_SENT"} == {None}


@both_versions
@pytest.mark.usefixtures("fast_open")
def test_fast_open_send(net, judged, version):
    """C1: sendto() with MSG_FASTOPEN opens the connection: the connect time begins at its entry."""
    with analysed(net) as rows, listener_in(net.server, version), socket_in(net.client, version) as client:
        enter_ns = time.monotonic_ns()
        client.sendto(b"early", socket.MSG_FASTOPEN, (net.server.address(version), PORT))
        exit_ns = time.monotonic_ns()
    mine = of_host(rows, net.client)
    judged(mine, enter_ns, exit_ns)
    assert {(row["remote_address"], row["remote_port"]) for row in mine} == {(net.server.address(version), PORT)}


@both_versions
def test_connect_that_does_not_wait(net, judged, version):
    """C1: a non-blocking connect() has not failed; its connect time runs until ESTABLISHED."""
    with analysed(net) as rows, listener_in(net.server, version), socket_in(net.client, version) as client:
        client.settimeout(0)
        enter_ns = time.monotonic_ns()
        assert client.connect_ex((net.server.address(version), PORT)) == errno.EINPROGRESS
        select.select([], [client], [])
        exit_ns = time.monotonic_ns()
    mine = of_host(rows, net.client)
    judged(mine, enter_ns, exit_ns)
    assert returned(mine) == ["connect() returned EINPROGRESS, the connection is being opened"]


def dissolve(sock):
    """Dissolve the socket's connection: connect() with AF_UNSPEC (connect(2))."""
    assert ctypes.CDLL(None).connect(sock.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16) == 0


def connect(sock, address):
    """Connect; return the errno, 0 without an error, and the times before and after the call."""
    enter_ns = time.monotonic_ns()
    error = sock.connect_ex(address)
    return error, enter_ns, time.monotonic_ns()


@both_versions
@pytest.mark.parametrize("first", ["refused", "refused later", "dissolved"])
def test_a_socket_that_connects_again(net, judged, version, first):
    """S8: after a refusal or AF_UNSPEC the steps of the next attempt have its own ends and connect time."""
    address = net.server.address(version)
    with (
        analysed(net) as rows,
        listener_in(net.server, version),
        listener_in(net.server, version, PORT + 1),
        socket_in(net.client, version) as client,
    ):
        if first == "dissolved":
            client.connect((address, PORT + 1))
            dissolve(client)
        elif first == "refused":
            assert connect(client, (address, 1))[0] == errno.ECONNREFUSED
        else:
            client.settimeout(0)
            assert connect(client, (address, 1))[0] == errno.EINPROGRESS
            select.select([], [client], [])
            assert connect(client, (address, 2))[0] == errno.ECONNREFUSED  # reported late
            client.settimeout(None)
        error, enter_ns, exit_ns = connect(client, (address, PORT))
        assert not error
        port = client.getsockname()[1]
    mine = of_host(rows, net.client)
    again = [row for row in mine if row["time_ns"] >= enter_ns]
    judged(again, enter_ns, exit_ns)
    assert {(row["local_port"], row["remote_address"], row["remote_port"]) for row in again} == {(port, address, PORT)}
    before = [row for row in mine if row["time_ns"] < enter_ns]
    attempts = [row["remote_port"] for row in before if row["step"] == "connect" and not row["returns"]]
    assert attempts == {"dissolved": [PORT + 1, PORT + 1], "refused": [1], "refused later": [1, 2]}[first]
    assert PORT not in {row["remote_port"] for row in before}
    assert port not in {row["local_port"] for row in before}


@both_versions
@pytest.mark.parametrize("error", ["ENETUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL", "ETIMEDOUT"])
def test_a_failed_connect_names_its_destination(net, version, error):
    """C2: connect() that fails, also before TCP has sent anything, has its destination and its error."""
    address = (net.server.address(version), PORT)
    with analysed(net) as rows, socket_in(net.client, version) as client:
        if error == "ENETUNREACH":
            address = ({4: "198.51.100.1", 6: "2001:db8:1::1"}[version], PORT)
        elif error == "EADDRNOTAVAIL":
            net.client.sysctl("ipv4/ip_local_port_range", "45001 45001")
            taken = listener_in(net.client, version, 45001)
        elif error == "ETIMEDOUT":
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100)
            address = (NOBODY[version], PORT)
        assert errno.errorcode[connect(client, address)[0]] == error
        if error == "EADDRNOTAVAIL":
            taken.close()
    calls = of_host(rows, net.client, "connect")
    assert [(row["remote_address"], row["remote_port"], row["connect_time_ns"]) for row in calls] == [
        (*address, None)
    ] * 2
    assert returned(calls) == [f"connect() failed: {error}"]


@pytest.fixture
def interrupting():
    """Return a context manager that sends this thread a signal every 10 ms. Its handler does nothing."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)

    @contextmanager
    def interrupts():
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    yield interrupts
    signal.signal(signal.SIGALRM, before)


@both_versions
def test_an_interrupted_connect(net, version, interrupting):
    """C2: connect() that a signal interrupts has neither connected nor failed, and has its destination."""
    address = socket.inet_pton(FAMILY[version], NOBODY[version])
    given = struct.pack("=H2s4s", 0, struct.pack("!H", PORT), address if version == 4 else bytes(4))
    given = struct.pack("=H", FAMILY[version]) + given[2:] + (bytes(8) if version == 4 else address + bytes(4))
    libc = ctypes.CDLL(None, use_errno=True)
    with analysed(net) as rows, socket_in(net.client, version) as client, interrupting():
        assert libc.connect(client.fileno(), given, len(given)) == -1
        assert ctypes.get_errno() == errno.EINTR
    calls = of_host(rows, net.client, "connect")
    assert {(row["remote_address"], row["remote_port"], row["connect_time_ns"]) for row in calls} == {
        (NOBODY[version], PORT, None)
    }
    assert returned(calls) == ["connect() interrupted by a signal"]


@both_versions
def test_outcomes_of_accept(net, version, interrupting):
    """C2: accept() without a connection, on a socket that does not listen, interrupted, and with a connection."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (
        analysed(net) as rows,
        listener_in(net.server, version) as listener,
        socket_in(net.server, version) as closed,
        socket_in(net.client, version) as client,
    ):
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
        with pytest.raises(OSError, match="Invalid argument"):
            closed.accept()
        listener.settimeout(None)
        with interrupting():
            assert libc.accept(listener.fileno(), None, None) == -1
        assert ctypes.get_errno() == errno.EINTR
        client.connect((net.server.address(version), PORT))
        listener.accept()[0].close()
    mine = of_host(rows, net.server, "accept")
    assert returned(mine, "accept") == [
        "accept4() returned EAGAIN, no connection waits",
        "accept4() failed: EINVAL",
        "accept() interrupted by a signal",
        "accept4() returned",
    ]
    assert [row["remote_port"] is not None for row in mine if row["returns"]] == [False, False, False, True]
