"""Ways to talk that no demo application uses: each is measured right, or shown as unknown."""

import ctypes
import os
import platform
import select
import socket
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from support.connections import PORT, connection
from support.processes import rows_in, watching

from lab.arrays import UNKNOWN
from lab.linux.io_uring import ring
from lab.linux.netns import inside
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.probes.layers.requests import Kind, requests
from lab.probes.layers.stages import LAYERS, Stages, Stop
from lab.recording.recorder import record
from lab.units import MS, SECOND

FUTEX = {"x86_64": "202", "aarch64": "98"}[platform.machine()]


@contextmanager
def observed(net):
    """Record the block; afterwards the yielded list has the stages with both hosts, the client, and the server."""
    found = []
    with record("layers", devices=net.devices) as recorder:
        yield found
        net.quiesce()
    events = recorder.recording.events["layers"]
    found += [Stages(events, tuple(inodes)) for inodes in (net.inodes, net.inodes[:1], net.inodes[1:])]


def connected(net):
    """Connect the client to the server; the block gets the sockets of both."""
    return connection(net.client.name, net.server.name, net.server.ipv4)


def possible(stages, sizes):
    """Return the rows of requests with these bytes; fail if a time is impossible: negative, or more than the total."""
    rows = requests(stages, PORT).rows
    assert rows["bytes"].tolist() == sizes
    layers = rows["layers_ns"]
    assert (layers >= UNKNOWN).all()
    assert (rows["elsewhere_ns"] >= 0).all()
    known = np.where(layers == UNKNOWN, 0, layers).sum(axis=(1, 2))
    assert (known + rows["elsewhere_ns"] == rows["total_ns"]).all()
    return rows


@pytest.mark.parametrize("how", ["sendto", "connect"])
def test_data_in_the_syn(how):
    """Q3: the SYN's number is no byte, and data that it carried has no impossible time."""
    with (
        topology(Relay()) as net,
        observed(net) as found,
        inside(net.server.name, lambda: socket.create_server((net.server.ipv4, PORT))) as listener,
        inside(net.client.name, socket.socket) as client,
    ):
        for host in (net.client, net.server):
            host.sysctl("ipv4/tcp_fastopen", 1543)  # both roles, without cookies
        net.conditions(Conditions(delay_ns=5 * MS), Conditions(delay_ns=5 * MS))
        address = net.server.ipv4, PORT
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        begun_ns = time.monotonic_ns()
        if how == "connect":
            client.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
            client.connect(address)
            begun_ns = time.monotonic_ns()
            client.send(bytes(100))
        else:
            client.sendto(bytes(100), socket.MSG_FASTOPEN, address)
        with listener.accept()[0] as server:
            read_from_ns = time.monotonic_ns()
            assert len(server.recv(1000)) == 100
            read_ns = time.monotonic_ns()
            server.send(bytes(50))
            assert len(client.recv(1000)) == 50
            done_ns = time.monotonic_ns()
            client.send(bytes(10))
            server.recv(1000)
            server.send(bytes(20))
            client.recv(1000)
    for stages in found:
        rows = possible(stages, [[100, 50], [10, 20]])
        assert not rows["contradictory"][1]
        assert rows["total_ns"][0] <= done_ns - begun_ns
    both, client_alone, server_alone = (requests(stages, PORT).rows[0] for stages in found)
    assert both["stops"][0, Stop.DEVICE_OUT] < begun_ns + 5 * MS  # not after the handshake
    for row in (both, client_alone):
        assert begun_ns <= row["stops"][0, Stop.WRITTEN] <= row["stops"][0, Stop.DEVICE_OUT]
    for row in (both, server_alone):
        assert read_from_ns <= row["stops"][0, Stop.READ] <= read_ns


def test_a_lowered_mark(net):
    """Q3: data that was announced after it had been read (SO_RCVLOWAT) has an unknown time of readiness."""
    with observed(net) as found, connected(net) as (client, server):
        for mark in (1000, 1):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
            client.send(bytes(100))
            deadline = time.monotonic() + 20
            read = 0
            while read < 100 and time.monotonic() < deadline:
                with suppress(BlockingIOError):
                    read += len(server.recv(100, socket.MSG_DONTWAIT))
            server.send(bytes(50))
            assert len(client.recv(100)) == 50
    for stages in found:
        possible(stages, [[100, 50]] * 2)
    for stages in (found[0], found[2]):
        rows = requests(stages, PORT).rows
        assert rows["contradictory"].tolist() == [True, False]
        assert (rows["stops"][:, 0, Stop.READY] == UNKNOWN).tolist() == [True, False]


def test_urgent_data(net):
    """Q3: a read that skips an urgent byte covers the bytes behind it; no time is impossible."""
    with observed(net) as found, connected(net) as (client, server):
        for _ in range(3):
            client.send(b"abc")
            client.send(b"d", socket.MSG_OOB)
            client.send(b"efg")
            time.sleep(0.01)
            read = b""
            while len(read) < 6:
                read += server.recv(100)
            assert read == b"abcefg"
            server.send(bytes(50))
            assert len(client.recv(100)) == 50
    for stages in found:
        possible(stages, [[7, 50]] * 3)
    assert (requests(found[0], PORT).rows["stops"] != UNKNOWN).all()


LATE_S = 0.03
WAITS = ("recv", "poll", "select", "epoll", "edge-triggered epoll")


def wait_for(sock, how):
    """Wait until a socket has data, by the call of that name."""
    if how == "poll":
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        assert poll.poll(20_000)
    elif how == "select":
        assert select.select([sock], [], [], 20)[0]
    elif "epoll" in how:
        with select.epoll() as epoll:
            epoll.register(sock, select.EPOLLIN | (select.EPOLLET if "edge" in how else 0))
            assert epoll.poll(20)


def sleep_by(how):
    """Sleep for `LATE_S` in the call of that name, for another descriptor or for none."""
    ours, theirs = socket.socketpair()
    answer = threading.Timer(LATE_S, theirs.send, [b"answer"])
    with ours, theirs:
        if how == "select as a sleep":
            select.select([], [], [], LATE_S)
            return
        answer.start()
        wait_for(ours, how)
        ours.recv(100)
        answer.join()


def queue_and_wake_up(stages):
    """Return QUEUE and WAKE-UP of the requests, in seconds."""
    layers = requests(stages, PORT).rows["layers_ns"][:, 0]
    return layers[:, LAYERS.index("queue")] / SECOND, layers[:, LAYERS.index("wake_up")] / SECOND


@pytest.mark.parametrize("how", [*WAITS, "select as a sleep"])
def test_a_busy_worker(net, how):
    """Q1: a worker that waits for its database, by whatever call, is busy: its clients wait in QUEUE."""
    with observed(net) as found, connected(net) as (client, server):
        for _ in range(3):
            client.send(bytes(100))
            sleep_by(how)
            if how in WAITS:
                wait_for(server, how)
            assert len(server.recv(1000)) == 100
            server.send(bytes(50))
            assert len(client.recv(1000)) == 50
    for stages in (found[0], found[2]):
        queue_s, wake_up_s = queue_and_wake_up(stages)
        assert len(queue_s) == 3
        assert (queue_s > LATE_S / 2).all()
        assert (wake_up_s == 0).all()


@pytest.mark.parametrize("how", WAITS)
def test_a_waiting_worker(net, how):
    """Q1: a worker that waits for this socket, by whatever call and from its first wait on, is woken: no QUEUE."""
    with observed(net) as found, connected(net) as (client, server):
        for _ in range(3):
            worker = threading.Thread(target=lambda: (wait_for(server, how), server.recv(1000), server.send(bytes(50))))
            worker.start()
            until(lambda worker=worker: sleeps(worker.native_id))
            client.send(bytes(100))
            assert len(client.recv(1000)) == 50
            worker.join()
    queue_s, wake_up_s = queue_and_wake_up(found[0])
    assert (wake_up_s > 0).all()
    if how == "recv":
        assert (queue_s == 0).all()


@pytest.mark.parametrize("how", ["poll", "edge-triggered epoll"])
def test_a_reader_that_comes_late(net, how):
    """Q1: of a reader that was woken and reads later, after another sleep, only the wake-up is WAKE-UP."""
    with observed(net) as found, connected(net) as (client, server), select.epoll() as epoll:
        epoll.register(server, select.EPOLLIN | select.EPOLLET)
        waker = threading.Timer(LATE_S, client.send, [bytes(100)])
        waker.start()
        if how == "poll":
            wait_for(server, how)
        else:
            assert epoll.poll(20)
            epoll.poll(LATE_S)
        sleep_by("poll")
        assert len(server.recv(1000)) == 100
        server.send(bytes(50))
        assert len(client.recv(1000)) == 50
        waker.join()
    queue_s, wake_up_s = queue_and_wake_up(found[0])
    assert (queue_s > LATE_S / 2).all()
    assert (wake_up_s > 0).all()
    woken = requests(found[0], PORT).rows["stops"][0, 0, Stop.AWAKE]
    assert woken < requests(found[0], PORT).rows["stops"][0, 0, Stop.PICKED]


def shown(net, talk, *options):
    """Return the rows of the live tool, without those fields that are null, and its notes."""
    with watching("layers", "--json", "--netns", net.client.name, "--peer-netns", net.server.name, *options) as output:
        with connected(net) as ends:
            talk(*ends)
        net.quiesce()
    return rows_in(output[1]), output[0]


def ask(client, server, size=100):
    """Send a request and let the server read it."""
    client.send(bytes(size))
    assert len(server.recv(1000, socket.MSG_WAITALL if size > 1000 else 0)) == size


def answer(client, server, size=50):
    """Send a part of a reply and let the client read it."""
    server.send(bytes(size))
    assert len(client.recv(1000)) == size


def test_a_streamed_reply(net):
    """Q4: parts of a reply that come apart are a stream, with the times of its first and its last byte."""
    stamps = []

    def talk(client, server):
        stamps.append(time.monotonic_ns())
        ask(client, server)
        answer(client, server)
        stamps.append(time.monotonic_ns())
        for _ in range(3):
            time.sleep(0.1)
            answer(client, server)
        stamps.append(time.monotonic_ns())

    (row,), notes = shown(net, talk)
    assert (row["kind"], row["request_bytes"], row["reply_bytes"]) == ("stream", 100, 200)
    assert row["reply_first_ns"] - row["time_ns"] <= stamps[1] - stamps[0]
    assert 300 * MS <= row["reply_last_ns"] - row["reply_first_ns"] <= stamps[2] - stamps[0]
    assert "requests with a streamed reply, whose total includes its pauses: 1" in notes


def test_pushes(net):
    """Q4: a pause of --gap ends the reply, and what the server sends after it is a push with its own time."""

    def talk(client, server):
        ask(client, server)
        answer(client, server)
        for _ in range(2):
            time.sleep(0.2)
            answer(client, server)

    rows, notes = shown(net, talk, "--gap", "100ms")
    assert [(row["kind"], row["request_bytes"], row["reply_bytes"]) for row in rows] == [
        ("request", 100, 50),
        ("push", 0, 50),
        ("push", 0, 50),
    ]
    assert all(0 < row["total_ns"] < 200 * MS for row in rows)
    assert all(row["request_first_ns"] is None for row in rows[1:])
    assert "pushes, data of a server without a request: 2" in notes


def test_pipelined_requests(net):
    """Q8: ten requests in flight are one stretch, with the bytes in each direction."""

    def talk(client, server):
        for _ in range(10):
            client.send(bytes(100))
        for _ in range(10):
            assert len(server.recv(100, socket.MSG_WAITALL)) == 100
            server.send(bytes(50))
        assert len(client.recv(500, socket.MSG_WAITALL)) == 500

    (row,), notes = shown(net, talk)
    assert (row["kind"], row["request_bytes"], row["reply_bytes"]) == ("stretch", 1000, 500)
    assert row["total_ns"] is None
    assert all(row[f"{leg}_{name}_ns"] is None for leg in ("request", "reply") for name in LAYERS)
    assert row["request_first_ns"] <= row["request_last_ns"] <= row["reply_first_ns"] <= row["reply_last_ns"]
    assert "stretches of pipelined or multiplexed connections, which are not divided into requests: 1" in notes


def test_a_reply_before_the_end_of_the_request(net):
    """Q2: a server that answers the first half of a request makes a stretch, seen from each side."""
    with observed(net) as found, connected(net) as (client, server):
        client.send(bytes(100))
        server.recv(1000)
        server.send(bytes(50))
        until(lambda: select.select([client], [], [], 0)[0])
        ask(client, server)
        assert len(client.recv(1000)) == 50
        ask(client, server)
        answer(client, server)
    for stages in found[:2]:
        assert [Kind(kind) for kind in requests(stages, PORT).every["kind"]] == [Kind.STRETCH] * 2


def test_http_2(net):
    """Q2: a connection that begins like HTTP/2 has only stretches, also when its directions alternate."""

    def talk(client, server):
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(60))
        server.recv(1000)
        answer(client, server)
        ask(client, server, 38)
        time.sleep(0.05)
        answer(client, server)

    rows, _ = shown(net, talk)
    assert [(row["kind"], row["total_ns"]) for row in rows] == [("stretch", None)] * 2


def by_sendfile(server, size):
    with tempfile.TemporaryFile() as file:
        file.write(bytes(size))
        file.flush()
        sent = 0
        while sent < size:
            sent += os.sendfile(server.fileno(), file.fileno(), sent, size - sent)


def by_pwritev2(server, size):
    assert LIBC.pwritev2(server.fileno(), ctypes.byref(Vector(bytes(size), size)), 1, -1, 0, 0) == size


def by_splice(server, size):
    read, write = os.pipe()
    for _ in range(size // 1000):
        os.write(write, bytes(1000))
        assert os.splice(read, server.fileno(), 1000) == 1000
    os.close(read)
    os.close(write)


class Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.mark.parametrize(
    ("send", "size"), [(by_sendfile, 3_000_000), (by_pwritev2, 100), (by_splice, 20_000)], ids=lambda it: str(it)[:20]
)
def test_a_body_without_a_write(net, send, size):
    """Q5: all bytes of a reply count, whatever call has sent its body. A call that is not observed is counted."""

    def talk(client, server):
        for _ in range(2):
            ask(client, server)
            server.send(bytes(246))
            reader = threading.Thread(target=client.recv, args=(246 + size, socket.MSG_WAITALL))
            reader.start()
            send(server, size)
            reader.join()

    with watching("layers", "--json", "--netns", net.server.name) as output:
        with connected(net) as ends:
            talk(*ends)
        net.quiesce()
    rows = rows_in(output[1])
    assert [(row["request_bytes"], row["reply_bytes"]) for row in rows] == [(100, 246 + size)] * 2
    unseen = send is by_splice
    assert all((row["reply_write_ns"] is None) == unseen for row in rows)
    assert output[0].count("bytes sent, but written by no observed system call: 40000\n") == unseen


@pytest.mark.parametrize("alone", [True, False])
def test_io_uring(net, alone):
    """Q5: requests to a server that uses io_uring have their bytes from the segments, and that is said."""
    hosts = ["--netns", net.server.name] if alone else ["--netns", net.client.name, "--peer-netns", net.server.name]
    with watching("layers", "--json", *hosts) as output:
        with connected(net) as (client, server), ring() as uring:
            for _ in range(3):
                client.send(bytes(100))
                assert len(uring.recv(server, 1000)) == 100
                assert uring.send(server, bytes(50)) == 50
                assert len(client.recv(1000)) == 50
        net.quiesce()
    rows = rows_in(output[1])
    assert [(row["kind"], row["request_bytes"], row["reply_bytes"]) for row in rows] == [("request", 100, 50)] * 3
    assert all(row["request_read_ns"] is None and row["reply_write_ns"] is None for row in rows)
    assert all(row["request_ip_ns"] is not None and row["reply_qdisc_ns"] is not None for row in rows)
    assert output[0].splitlines() == [
        "lab: bytes sent, but written by no observed system call: 150",
        "lab: bytes received, but read by no observed system call: 300",
    ]


MPTCP = 262  # IPPROTO_MPTCP


def test_mptcp(net):
    """Q11: the subflows of MPTCP are shown with their bytes, as stretches, and the tool says so."""
    address = net.server.ipv4, PORT
    with watching("layers", "--json", "--netns", net.client.name, "--peer-netns", net.server.name) as output:
        with (
            inside(net.server.name, lambda: socket.socket(proto=MPTCP)) as listener,
            inside(net.client.name, lambda: socket.socket(proto=MPTCP)) as client,
        ):
            listener.bind(address)
            listener.listen()
            client.connect(address)
            with listener.accept()[0] as server:
                for _ in range(3):
                    ask(client, server)
                    answer(client, server)
        net.quiesce()
    rows = rows_in(output[1])
    assert {row["kind"] for row in rows} == {"stretch"}
    assert sum(row["request_bytes"] for row in rows) == 300
    assert sum(row["reply_bytes"] for row in rows) == 150
    assert "lab: MPTCP was seen: each subflow is a connection of stretches" in output[0]


def until(holds):
    """Wait until a condition holds."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline


def sleeps(thread):
    """Return whether a thread of this process sleeps in a system call that is not Python's lock, from proc(5)."""
    call = Path(f"/proc/self/task/{thread}/syscall").read_text(encoding="utf-8").split()[0]
    return call not in ("running", FUTEX)
