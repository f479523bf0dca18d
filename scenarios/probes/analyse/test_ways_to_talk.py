"""Ways to send and receive: each call has its result, and the work of TCP for a call that is not observed says so.

B1 is a row of the corpus of known wrong numbers.
"""

import ctypes
import os
import platform
import queue
import select
import socket
import threading
import time
from pathlib import Path

import pytest
from support import kernel_abilities
from support.analysed import PORT, analysed, connected, of_host
from support.compat_calls import CompatCalls
from support.processes import watching

from lab.linux.io_uring import ring
from lab.linux.mmsg import recvmmsg, sendmmsg
from lab.probes.analyse import text
from lab.verdict import Bracket, Judge

SO_ZEROCOPY, MSG_ZEROCOPY, MSG_ERRQUEUE = 60, 0x4000000, 0x2000
SYS_READ = {"x86_64": 0, "aarch64": 63}[platform.machine()]
both_versions = pytest.mark.parametrize("version", [4, 6])


def calls(rows, *steps):
    """Return the names and results of the calls that returned."""
    return [(row["func"], row["result"]) for row in rows if row["step"] in steps and row["returns"]]


def wait_in_read(thread):
    """Wait until a thread of this process is in read()."""
    while Path(f"/proc/self/task/{thread.native_id}/syscall").read_text(encoding="utf-8").split()[0] != str(SYS_READ):
        pass


def work(rows, step):
    """Return the results of TCP's work for calls, if this kernel lets the probe observe it."""
    return [row["result"] for row in rows if row["step"] == step]


@both_versions
def test_sends_that_are_cut_short(net, version):
    """B1: of a non-blocking send() that is cut short the bytes taken are shown, and of EAGAIN none."""
    with analysed(net) as rows, connected(net, version) as (client, server):
        client.settimeout(0)
        data, sent = bytes(10_000_000), []
        while not sent or sent[-1] > 0:
            try:
                sent.append(client.send(data))
            except BlockingIOError:
                sent.append(-11)
        client.settimeout(None)
        client.close()
        received = sum(iter(lambda: len(server.recv(1 << 20)), 0))
    mine = of_host(rows, net.client)
    assert len(sent) >= 2
    assert [result for _, result in calls(mine, "send")] == sent
    assert sum(result for result in sent if result > 0) == received
    assert calls(mine, "send")[-1] == ("sendto", -11)
    ended = [text.description(row) for row in mine if row["step"] == "send" and row["returns"]]
    assert ended[-1].startswith("sendto() returned EAGAIN, no room for data")
    if kernel_abilities.is_told():
        assert work(mine, "sent") == sent
        arrived = work(of_host(rows, net.server), "received")
        assert sum(arrived) == received


@both_versions
def test_files_and_pipes(net, version, tmp_path):
    """B1: sendfile() and splice() are shown with their bytes, from and to the socket."""
    path = tmp_path / "data"
    path.write_bytes(b"a" * 3000)
    with analysed(net) as rows, connected(net, version) as (client, server), path.open("rb") as file:
        assert os.sendfile(client.fileno(), file.fileno(), 0, 3000) == 3000
        assert server.recv(3000, socket.MSG_WAITALL) == b"a" * 3000
        read, write = os.pipe()
        os.write(write, b"b" * 700)
        assert os.splice(read, client.fileno(), 700) == 700
        select.select([server], [], [])
        assert os.splice(server.fileno(), write, 700) == 700
        assert os.read(read, 700) == b"b" * 700
        for fd in (read, write):
            os.close(fd)
    mine, other = of_host(rows, net.client), of_host(rows, net.server)
    assert calls(mine, "send") == [("sendfile", 3000), ("splice", 700)]
    assert calls(other, "receive") == [("recvfrom", 3000), ("splice", 700)]
    assert all(row["observed_call"] for row in rows if row["observed_call"] is not None)
    if kernel_abilities.is_told():
        assert sum(work(mine, "sent")) == 3700


@both_versions
def test_messages_and_vectors(net, version):
    """B1: vectors with a position that is none (pwritev2, preadv2) are shown with their bytes."""
    with analysed(net) as rows, connected(net, version) as (client, server):
        assert os.pwritev(client.fileno(), [b"a" * 10, b"b" * 20], -1) == 30
        assert os.preadv(server.fileno(), [bytearray(50)], -1) == 30
    assert calls(of_host(rows, net.client), "send") == [("pwritev2", 30)]
    assert calls(of_host(rows, net.server), "receive") == [("preadv2", 30)]


@both_versions
def test_several_messages_in_one_call(net, version):
    """B1: sendmmsg() and recvmmsg() return messages; the work of TCP for each message has its bytes."""
    with analysed(net) as rows, connected(net, version) as (client, server):
        assert sendmmsg(client, [bytes(10), bytes(20)]) == [10, 20]
        server.recv(30, socket.MSG_PEEK | socket.MSG_WAITALL)
        assert recvmmsg(server, [10, 20]) == [bytes(10), bytes(20)]
    mine, other = of_host(rows, net.client), of_host(rows, net.server)
    assert calls(mine, "send") == [("sendmmsg", 2)]
    assert calls(other, "receive") == [("recvfrom", 30), ("recvmmsg", 2)]
    told = [text.description(row) for row in mine if row["step"] == "send" and row["returns"]]
    assert told[0].startswith("sendmmsg() returned 2 messages")
    if kernel_abilities.is_told():
        assert work(mine, "sent") == [10, 20]
        assert work(other, "received") == [10, 20]


@both_versions
def test_what_stays_in_the_socket(net, version):
    """B1: a peek, the error queue, a read of nothing and urgent data are told from data that is taken."""
    with analysed(net) as rows, connected(net, version) as (client, server):
        client.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        client.send(b"a" * 9, MSG_ZEROCOPY)
        assert len(server.recv(9, socket.MSG_PEEK | socket.MSG_WAITALL)) == 9
        assert len(server.recvmsg(4, 0, socket.MSG_PEEK)[0]) == 4
        assert ctypes.CDLL(None).recv(server.fileno(), None, 0, 0) == 0  # Python's does not call the kernel for this
        assert len(server.recv(9)) == 9
        errors = select.poll()
        errors.register(client, 0)  # POLLERR is always reported
        errors.poll()
        client.recvmsg(100, 100, MSG_ERRQUEUE)
        client.send(b"!", socket.MSG_OOB)
        select.select([], [], [server])
        assert server.recv(1, socket.MSG_OOB) == b"!"
        client.close()
        assert server.recv(9) == b""
    taken = [(row["result"], row["takes"]) for row in of_host(rows, net.server, "receive") if row["returns"]]
    assert taken == [(9, "nothing"), (4, "nothing"), (0, "data"), (9, "data"), (1, "data"), (0, "data")]
    (errors,) = [row for row in of_host(rows, net.client, "receive") if row["returns"]]
    assert errors["takes"] == "errors"
    if kernel_abilities.is_told():
        told = [text.description(row).split(",")[0] for row in of_host(rows, net.server, "received")]
        assert told == ["no data", *["data returned to the application"] * 2, "end of data"]
        assert of_host(rows, net.client, "received") == []


@both_versions
def test_io_uring(net, version):
    """B1: data sent and received by io_uring is shown as the work of TCP for a call that is not observed."""
    kernel_abilities.required()
    with analysed(net) as rows, connected(net, version) as (client, server), ring() as uring:
        assert uring.send(client, b"a" * 70) == 70
        assert uring.recv(server, 100) == b"a" * 70
        client.send(b"b" * 5)
        assert server.recv(9) == b"b" * 5
    seen = [(row["result"], row["observed_call"]) for row in rows if row["step"] in ("sent", "received")]
    assert seen == [(70, False), (70, False), (5, True), (5, True)]
    assert {row["pid"] for row in rows if row["observed_call"] is False} == {os.getpid()}


if platform.machine() == "x86_64":  # elsewhere a 64-bit program does not make the calls of a 32-bit one

    @both_versions
    def test_calls_of_a_32_bit_program(net, version):
        """B1: calls with the numbers of 32-bit programs are no others: only the work of TCP for them is shown."""
        made = CompatCalls()
        with analysed(net) as rows, connected(net, version) as (client, server):
            assert made.write(client.fileno(), b"a" * 70) == 70
            assert made.read(server.fileno(), 100) == b"a" * 70
            client.send(b"b" * 5)
            assert server.recv(9) == b"b" * 5
        assert calls(rows, "send", "receive", "close") == [("sendto", 5), ("recvfrom", 5), *[("close", 0)] * 3]
        if kernel_abilities.is_told():
            seen = [(row["result"], row["observed_call"]) for row in rows if row["step"] in ("sent", "received")]
            assert seen == [(70, False), (70, False), (5, True), (5, True)]


def test_the_account(net):
    """B1: the tool ends with the number of opens, sends and receives whose call it did not observe."""
    kernel_abilities.required()
    with watching("analyse", "client", "--json", "--netns", net.client.name) as output:
        with connected(net) as (client, server), ring() as uring:
            uring.send(client, b"a" * 70)
            server.recv(70)
        net.quiesce()
    assert output[0].startswith("lab: 1 opens, sends and receives were made by calls that are not observed")


@both_versions
def test_threads_on_one_socket(lab, net, version):
    """Two threads that wait in recv() of one socket at once, and one that sends on it: each call is its thread's."""
    stamps = queue.SimpleQueue()

    def stamped(call):
        enter_ns = time.monotonic_ns()
        result = call()
        stamps.put((threading.get_native_id(), enter_ns, time.monotonic_ns(), result))

    with analysed(net) as rows, connected(net, version) as (client, server):
        readers = [threading.Thread(target=stamped, args=(lambda: len(server.recv(1)),)) for _ in range(2)]
        writer = threading.Thread(target=stamped, args=(lambda: server.send(b"abc"),))
        for thread in (*readers, writer):
            thread.start()
        assert client.recv(3, socket.MSG_WAITALL) == b"abc"
        for byte in (b"x", b"y"):
            client.send(byte)
        for thread in (*readers, writer):
            thread.join()
    judge = Judge(lab.scenario, "analyse", "")
    for tid, enter_ns, exit_ns, result in (stamps.get() for _ in range(3)):
        mine = [row for row in of_host(rows, net.server, "send", "receive") if row["tid"] == tid and row["returns"]]
        assert [row["result"] for row in mine] == [result]
        during = Bracket.middle(enter_ns, exit_ns)
        lab.check([judge.duration(f"thread {tid}", "call returned at", during, mine[0]["time_ns"])])
        lasted = Bracket.middle(0, exit_ns - enter_ns)
        lab.check([judge.duration(f"thread {tid}", "call lasted", lasted, mine[0]["latency_ns"])])
        if kernel_abilities.is_told():
            (work,) = [row for row in of_host(rows, net.server, "sent", "received") if row["tid"] == tid]
            lab.check([judge.duration(f"thread {tid}", "work of TCP lasted", lasted, work["latency_ns"])])


@both_versions
def test_a_descriptor_that_changes_during_a_call(net, version):
    """A recv() whose descriptor another thread replaces by another socket keeps its own socket's ends."""
    with analysed(net) as rows, connected(net, version) as (client, server):
        port = client.getsockname()[1]
        with socket.fromfd(server.fileno(), server.family, server.type) as copy:
            thread = threading.Thread(target=lambda: os.read(copy.fileno(), 9))
            thread.start()
            wait_in_read(thread)
            with connected(net, version, PORT + 1) as (_, other):
                os.dup2(other.fileno(), copy.fileno())
                client.send(b"a")
                thread.join()
    (returned,) = [row for row in rows if row["func"] == "read" and row["returns"]]
    assert (returned["local_port"], returned["remote_port"], returned["result"]) == (PORT, port, 1)


@both_versions
def test_a_reader_that_waits_elsewhere(net, version):
    """Reads of one byte by a non-blocking reader that waits in poll(), select() and epoll: each one has its result."""
    with analysed(net) as rows, connected(net, version) as (client, server), select.epoll() as epoll:
        server.settimeout(0)
        poll = select.poll()
        poll.register(server, select.POLLIN)
        epoll.register(server, select.EPOLLIN | select.EPOLLET)
        results = []
        for wait in (poll.poll, lambda: select.select([server], [], []), epoll.poll):
            client.send(b"a")
            wait()
            for _ in range(2):
                try:
                    results.append(len(server.recv(1)))
                except BlockingIOError:
                    results.append(-11)
            time.sleep(0.01)
    assert results == [1, -11] * 3
    mine = of_host(rows, net.server)
    assert [result for _, result in calls(mine, "receive")] == results
    if kernel_abilities.is_told():
        assert work(mine, "received") == results
    assert {row["observed_call"] for row in mine} <= {True, None}
