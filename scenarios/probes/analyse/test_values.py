"""The steps of connections: values of the probe `analyse` against the timestamps of both applications.

A1 to A6 are rows of the corpus of known wrong numbers, as are S7 (bystanders) and L1 (order).
"""

import os
import platform
import queue
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support import kernel_abilities
from support.mutants import caught, changed, judge_mutant

from lab.arrays import UNKNOWN
from lab.ebpf import attach
from lab.linux.netns import inside
from lab.probes.analyse import text
from lab.probes.analyse.measure import Kind, Role, joined, latency_ns
from lab.recording.recorder import record
from lab.tcp import State, address_text
from lab.traffic.demo.conversation import Conversation
from lab.units import MS

SYS_RECVFROM = {"x86_64": 45, "aarch64": 207}[platform.machine()]
both_versions = pytest.mark.parametrize("version", [4, 6])


def watch(lab, conversation, **how):
    """Observe conversations with `analyse` and `states`, judge `analyse`; returns its rows and the observation."""
    observed = lab.converse(conversation, probes=["analyse", "states"], **how)
    lab.judge("analyse", observed)
    rows = joined(observed.recording.events["analyse"])
    return rows[np.isin(rows["netns"], observed.inodes)], observed


def of(rows, kind, role=None):
    """Return the rows of a kind, and of a role if given."""
    return rows[(rows["kind"] == kind) & ((rows["role"] == role) if role else True)]


@both_versions
@pytest.mark.parametrize("closer", ["client", "server"])
def test_every_step_of_a_connection(lab, version, closer):
    """Every system call has an entry and a return inside the application's stamps, and its result, on both sides."""
    rows, observed = watch(lab, Conversation(closer=closer, hold_ns=10 * MS), version=version)
    texts = [text.description(row) for row in text.as_dicts(rows[rows["role"] == Role.CLIENT])]
    assert "connect() entered by the application" in texts
    assert "transfer from SYN_SENT to ESTABLISHED" in texts
    returned = r"data returned to the application, 375 bytes, after waiting \d+\.\d us"
    assert any(re.fullmatch(returned, text) for text in texts) == kernel_abilities.is_told()
    assert len(list(text.table(observed))) == len(rows) + 4  # a title and a head for each side


@both_versions
def test_packets_are_read_as_packets(lab, version):
    """A1: a segment that reaches TCP has the addresses and ports of the packet and the state of its socket."""
    rows, _ = watch(lab, Conversation(), version=version)
    arrived = of(rows, Kind.ARRIVED)
    addresses = {lab.net.client.address(version), lab.net.server.address(version)}
    assert {address_text(row["laddr"].tobytes()) for row in arrived} == addresses
    assert {address_text(row["raddr"].tobytes()) for row in arrived} == addresses
    assert all(9999 in {row["lport"], row["rport"]} for row in arrived)
    service = [State(row["state"]).name for row in of(rows, Kind.ARRIVED, Role.SERVICE)]
    client = [State(row["state"]).name for row in of(rows, Kind.ARRIVED, Role.CLIENT)]
    assert service[:2] == ["LISTEN", "LISTEN"]
    assert "ESTABLISHED" in service
    assert client[0] == "SYN_SENT"
    assert "ESTABLISHED" in client


@both_versions
def test_an_active_open_names_its_destination(lab, version):
    """A4: the step that opens a connection has the remote address and port, even if the connection is refused."""
    rows, _ = watch(lab, Conversation(), version=version, serve=False, source_port=40404)
    (opened,) = text.as_dicts(of(rows, Kind.OPENED))
    assert (opened["remote_address"], opened["remote_port"], opened["local_port"]) == (
        lab.net.server.address(version),
        9999,
        40404,
    )
    (failed,) = [row for row in text.as_dicts(of(rows, Kind.CONNECT)) if row["returns"]]
    assert failed["result"] == -111
    assert "ECONNREFUSED" in text.description(failed)
    assert failed["connect_time_ns"] is None


@both_versions
def test_data_is_stamped_when_it_is_returned(lab, version):
    """A5: a recv() that blocks while the client thinks is stamped after the send(), and its wait is measured."""
    kernel_abilities.required()
    rows, observed = watch(lab, Conversation(think_ns=40 * MS, exchanges=3), version=version)
    waits = of(rows, Kind.RECEIVED, Role.SERVICE)
    assert len(waits) == 4
    # The server waits for the first three while the client sleeps. Its own stamps show when it began to wait.
    (connection,) = observed.connections
    thinking = [call for call in connection.client.calls if call.name == "sleep"]
    receiving = [call for call in connection.server.calls if call.name == "recv"]
    for sleep, recv, wait in zip(thinking, receiving, latency_ns(waits), strict=False):
        assert wait >= sleep.exit_ns - max(recv.enter_ns, sleep.enter_ns) - (
            int(waits["enter_ns"][0]) - receiving[0].enter_ns
        )


@both_versions
def test_old_and_new_state(lab, version):
    """A3: every change has the same old and new state as in the probe `states`."""
    rows, observed = watch(lab, Conversation(how="shutdown", linger_ns=20 * MS), version=version, connections=10)
    changes = rows[np.isin(rows["kind"], (Kind.CHANGED, Kind.OPENED)) & (rows["oldstate"] > 0)]
    states = observed.recording.events["states"]
    states = states[np.isin(states["netns"], observed.inodes) & (states["skaddr"] > 0)]
    mine = {tuple(row) for row in changes[["skaddr", "oldstate", "state", "socket"]].tolist()}
    assert sorted(row[:3] for row in mine) == sorted(states[["skaddr", "oldstate", "newstate"]].tolist())


@both_versions
@pytest.mark.parametrize("before_accept_ns", [0, 30 * MS])
def test_application_delays(lab, version, before_accept_ns):
    """Delays before accept, recv and reply appear in the right step, and steps before accept() have their owner."""
    delays = Conversation(
        before_accept_ns=before_accept_ns,
        before_recv_ns=10 * MS,
        before_reply_ns=30 * MS,
        think_ns=10 * MS,
        exchanges=2,
    )
    rows, _ = watch(lab, delays, version=version)
    replies = of(rows, Kind.RECEIVED, Role.CLIENT)
    assert (latency_ns(replies)[:2] >= 25 * MS).all()


@both_versions
@pytest.mark.parametrize("closer", ["client", "server"])
def test_reset(lab, version, closer):
    """After a RST the blocked call returns with the error that the application gets."""
    rows, _ = watch(lab, Conversation(closer=closer, how="rst", hold_ns=10 * MS), version=version)
    other = Role.SERVICE if closer == "client" else Role.CLIENT
    assert -104 in of(rows, Kind.RECEIVE, other)["result"]


def test_mapped_addresses(lab):
    """An IPv6 socket with an IPv4 peer is reported with IPv4 addresses and version 4."""
    rows, _ = watch(lab, Conversation(), version=4, listen="::")
    assert {row["ip"] for row in text.as_dicts(rows[(rows["role"] == Role.SERVICE) & (rows["rport"] > 0)])} == {4}


def test_many_connections_at_once(lab):
    """A6: with 200 connections at once, every row is in order of time and has the owner of its socket."""
    rows, observed = watch(lab, Conversation(exchanges=2), connections=200)
    assert (np.diff(rows["time_ns"].astype(np.int64)) >= 0).all()
    assert len(observed.connections) == 200
    owners = {connection.client.pid for connection in observed.connections}
    assert set(rows["tgid"][rows["role"] == Role.CLIENT]) == owners
    assert (rows["connect_ns"][of_established(rows)] != UNKNOWN).all()


def test_many_blocked_receives_at_once(lab):
    """With many threads in recv() at once, the work of TCP for each is reported: the default of a kretprobe is ten."""
    _, observed = watch(lab, Conversation(before_reply_ns=500 * MS), connections=100)
    waits = [next(call for call in it.client.calls if call.name == "recv") for it in observed.connections]
    at_once = [sum(other.enter_ns <= wait.enter_ns < other.exit_ns for other in waits) for wait in waits]
    assert max(at_once) > 10


def of_established(rows):
    """Return which rows are changes of a client to ESTABLISHED."""
    return (rows["role"] == Role.CLIENT) & (rows["kind"] == Kind.CHANGED) & (rows["state"] == State.ESTABLISHED)


def test_busy_bystanders_own_nothing(lab):
    """S7, A6: with every processor busy, steps in softirq have the owner of the socket, never the interrupted task."""
    command = ["stress-ng", "--quiet", "--cpu", str(os.cpu_count()), "--timeout", "60"]
    with subprocess.Popen(command) as bystander:
        try:
            rows, observed = watch(lab, Conversation(), connections=30)
        finally:
            bystander.terminate()
    applications = {side.pid for it in observed.connections for side in (it.client, it.server)}
    of_a_socket = rows["skaddr"] > 0  # a retransmitted FIN can arrive after the socket was destroyed
    assert set(rows["tgid"][of_a_socket]) == applications
    assert set(rows["comm"][of_a_socket]) == {observed.connections[0].client.comm.encode()}
    assert not rows["tgid"][~of_a_socket].any()


def test_short_lived_connections(lab):
    """With reused kernel addresses, each connection has its own calls, owner and connect time."""
    rows, observed = watch(lab, Conversation(exchanges=0), connections=1000, concurrency=4)
    assert len(np.unique(rows["skaddr"])) < len(np.unique(rows["socket"])), "no kernel address was reused"
    assert len(observed.connections) == 1000


@both_versions
def test_the_whole_family_of_calls(lab, version):
    """Every call that sends or receives on a TCP socket is reported with its name and result; other files are not."""
    net, address = lab.net, (lab.net.server.address(version), 9999)
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    with (
        record("analyse", devices=lab.net.devices) as recorder,
        inside(net.server.name, lambda: socket.create_server(address, family=family)) as listener,
        inside(net.client.name, lambda: socket.create_connection(address)) as client,
        listener.accept()[0] as child,
        inside(net.client.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as datagrams,
        Path("/dev/null").open("wb", buffering=0) as file,
    ):
        os.write(client.fileno(), b"a" * 1)
        os.writev(client.fileno(), [b"a", b"a"])
        client.sendmsg([b"a" * 3])
        client.send(b"a" * 4)
        assert child.recv(10, socket.MSG_WAITALL | socket.MSG_PEEK) == b"a" * 10
        assert os.read(child.fileno(), 1) == b"a"
        assert os.readv(child.fileno(), [bytearray(2)]) == 2
        assert child.recvmsg(3)[0] == b"aaa"
        assert child.recv(4) == b"aaaa"
        datagrams.sendto(b"a", (net.client.ipv4, 9))
        file.write(b"a")
    rows = joined(recorder.recording.events["analyse"])
    rows = rows[np.isin(rows["netns"], net.inodes) & (rows["returns"] == 1)]
    reported = [(row["func"], row["result"]) for row in text.as_dicts(rows) if row["step"] in {"send", "receive"}]
    sent = [("write", 1), ("writev", 2), ("sendmsg", 3), ("sendto", 4)]
    assert reported == [*sent, ("recvfrom", 10), ("read", 1), ("readv", 2), ("recvmsg", 3), ("recvfrom", 4)]
    # A peek is not reported as data returned: the data stays in the socket.
    done = [1, 2, 3, 4] if kernel_abilities.is_told() else []
    assert of(rows, Kind.RECEIVED)["result"].tolist() == done
    assert of(rows, Kind.SENT)["result"].tolist() == done


@both_versions
def test_a_blocked_accept(lab, version):
    """An accept() that was entered before its connection began belongs to the connection; its latency is the wait."""
    net, address = lab.net, (lab.net.server.address(version), 9999)
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    stamps = []

    def accept(listener):
        stamps.append(time.monotonic_ns())
        with listener.accept()[0]:
            stamps.append(time.monotonic_ns())

    with (
        record("analyse", devices=lab.net.devices) as recorder,
        inside(net.server.name, lambda: socket.create_server(address, family=family)) as listener,
    ):
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        while not stamps:
            pass
        time.sleep(0.02)
        connecting_ns = time.monotonic_ns()
        with inside(net.client.name, lambda: socket.create_connection(address)):
            thread.join()
    rows = joined(recorder.recording.events["analyse"])
    rows = rows[rows["netns"] == net.server.inode]
    (accepted,) = rows[(rows["kind"] == Kind.ACCEPT) & (rows["returns"] == 1)]
    assert stamps[0] <= accepted["enter_ns"] <= accepted["time_ns"] <= stamps[1]
    assert accepted["time_ns"] >= connecting_ns
    (created,) = rows[(rows["kind"] == Kind.CHANGED) & (rows["oldstate"] == State.LISTEN)][:1]
    assert (created["socket"], created["tgid"], created["role"]) == (accepted["socket"], os.getpid(), Role.SERVICE)


def wait_for_recv(tid):
    """Wait until this thread of the process is in recv()."""
    while Path(f"/proc/self/task/{tid}/syscall").read_text(encoding="utf-8").split()[0] != str(SYS_RECVFROM):
        pass


def test_a_call_blocked_while_another_program_attaches(tmp_path):
    """If fentry misses the return of a call because another program attached to the function, the loss is counted."""
    kernel_abilities.required()
    tids = queue.SimpleQueue()
    other = changed(tmp_path, "analyse")

    def receive(connection):
        tids.put(threading.get_native_id())
        assert connection.recv(1) + connection.recv(1) == b"xx"

    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        thread = threading.Thread(target=receive, args=(server,))
        with client, server, record("analyse", lossy=True) as recorder:
            thread.start()
            tid = tids.get()
            wait_for_recv(tid)
            with record(programs={"analyse": other}, lossy=True):
                pass
            client.send(b"x")
            client.send(b"x")
            thread.join()
    events = recorder.recording.events["analyse"]
    mine = events[(events["tid"] == tid) & (events["returns"] == 1)]
    assert len(of(mine, Kind.RECEIVE)) == 2
    seen = len(of(mine, Kind.RECEIVED))
    assert seen == 2 or (seen == 1 and recorder.recording.lost["analyse"])


def test_a_call_that_outlasts_a_recording():
    """A recv() that returned between two recordings is not mistaken for a later call of the thread."""
    may_go_on = threading.Event()
    tids = queue.SimpleQueue()
    here, there = socket.socketpair()

    def receive(connection):
        tids.put(threading.get_native_id())
        connection.recv(1)
        may_go_on.wait()
        here.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener, here, there:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        thread = threading.Thread(target=receive, args=(server,))
        with client, server:
            with record("analyse", lossy=True) as before:
                thread.start()
                tid = tids.get()
                wait_for_recv(tid)
            client.send(b"x")
            with record("analyse", lossy=True) as after:
                may_go_on.set()
                there.send(b"x")
                thread.join()
    calls = before.recording.events["analyse"]
    assert (calls[calls["tid"] == tid]["kind"] == Kind.RECEIVE).any()
    later = after.recording.events["analyse"]
    assert later[later["tid"] == tid].size == 0


# ---- variants that are wrong on purpose ----


@pytest.fixture
def judged(lab, tmp_path):
    """Return a function that observes 20 connections with a changed probe and returns the wrong quantities."""

    def judge(*changes):
        program, conversation = changed(tmp_path, "analyse", *changes), Conversation(think_ns=10 * MS)
        lossy = bool(changes)
        return caught(judge_mutant(lab, program, "analyse", conversation, connections=20, concurrency=4, lossy=lossy))

    return judge


def test_the_right_probe_passes(judged):
    """The unchanged probe has no wrong verdict, so the verdicts below are due to the changes."""
    assert judged() == set()


def test_a_probe_that_stamps_data_when_recv_is_entered(judged):
    """A5: a stamp of the entry of recvmsg precedes the data; the judge finds the time or the wait wrong."""
    kernel_abilities.required()
    early = r"\g<0>    if (kind == KIND_RECEIVED)\n        step->time_ns = enter_ns;\n"
    wrong = judged((r"^    step->enter_ns = enter_ns;\n", early))
    assert any(re.match(r"(TCP done|wait) in recv\(\) \d", quantity) for quantity in wrong)


def test_a_probe_that_names_a_bystander(judged):
    """S7, A6: the judge catches a probe that reports the current task in softirq as the owner."""
    named = r"\g<0>    fill_owner(step);\n"
    wrong = judged((r"^    fill_socket\(step, sk\);\n", named))
    assert "owner" in wrong


def test_a_probe_that_takes_the_old_state_for_the_new_one(judged):
    """A3: the judge catches a probe that reports the state left as the state entered."""
    wrong = judged((r"^    step->state = newstate;\n", "    step->state = oldstate;\n"))
    assert "state sequence" in wrong


def test_a_probe_that_swaps_the_ends_of_packets(judged):
    """A1: the judge catches a probe that reports the source of a packet as the local end."""
    at_the_hook = (r"step->lport = packet->dport;", "step->lport = packet->sport;")
    in_functions = (r"endpoints.lport = bpf_ntohs\(tcp.dest\);", "endpoints.lport = bpf_ntohs(tcp.source);")
    wrong = judged(at_the_hook, in_functions)
    # With kernel functions the packet is the first step of its socket and supplies its addresses, so the socket is
    # missing.
    assert ("addresses and ports" if attach.mechanism() == "tracepoint" else "socket") in wrong


@pytest.mark.parametrize(
    ("change", "quantity"),
    [
        ((r"^    fill_segment\(step, skb, &tcp, length\);\n", ""), "segments processed that never arrived"),
        ((r"\(\(u8 \*\)tcp\)\[13\]", "((u8 *)tcp)[0]"), "segments processed with other flags"),
    ],
)
def test_a_probe_that_misreads_the_processed_segment(judged, change, quantity):
    """The judge compares each segment that TCP processed with those that arrived."""
    assert quantity in judged(change)


def test_a_probe_that_omits_returns(judged):
    """The judge catches a probe that does not report the return of a system call."""
    drop = r"\g<0>    if (call->kind == KIND_SEND)\n        return 0;\n"
    wrong = judged((r"^    if \(!call\)\n        return 0;\n", drop))
    assert "system calls" in wrong
