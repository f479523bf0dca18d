"""Tools that no one here wrote, on the same traffic at the same time: what they say of it, beside what ours says."""

from collections import defaultdict
from itertools import pairwise

import pytest
from processes import started

from lab.bench import tools
from lab.bench.tools import libbpf
from lab.demo.conversation import Conversation
from lab.measure import transitions
from lab.tcp import State
from lab.units import MS
from lab.verdict import Bracket, Judge

TCPSTATES = "/usr/sbin/tcpstates"  # of libbpf-tools
HAND_OVER = {State.TIME_WAIT: "CLOSE"}  # S2: it calls the hand-over to a timewait minisock the end of the connection


LAST = 20
PORT, LAST_PORT = 20_998, 20_999  # nobody else's: tcpstates sees the whole machine, and so other scenarios under way


@pytest.mark.parametrize("version", [4, 6])
def test_tcpstates_agrees(lab, version):
    """Every change of state that libbpf-tools' tcpstates prints is one of ours, and its time in ESTABLISHED is true as well.

    What it is known to print wrong is left out: the first row's time (S3), SYN_RECV's (S1), the owner (S7), and TIME_WAIT (S2).
    """
    with started("/usr/bin/stdbuf", "-oL", TCPSTATES, ready="SKADDR") as process:
        conversation = Conversation(hold_ns=30 * MS, linger_ns=20 * MS)
        observed = lab.converse(conversation, version=version, connections=5, port=PORT)
        # The rows of connections that end later than these come later too. One alone might never come: a program at a perf event
        # is left out while another BPF program runs on its CPU, and nobody counts that.
        lab.converse(Conversation(), version=version, connections=LAST, port=LAST_PORT)
        printed = until_port(process, LAST_PORT)
    lab.judge("states", observed)
    ours = changes_of(observed)
    theirs = defaultdict(list)
    for row in printed:
        if row.socket in ours and PORT in (row.lport, row.rport):  # the second conversation may use the addresses again
            theirs[row.socket].append(row)
    assert theirs, "tcpstates has printed none of these sockets"
    judge, checks = Judge(lab.scenario, "tcpstates", "tracepoint:inet_sock_set_state"), []
    for skaddr, rows in theirs.items():
        for before, after in pairwise(rows):
            told = f"{after.oldstate} -> {after.newstate}"
            checks.append(judge.one_of(skaddr, "change of state", ours[skaddr], told))
            if after.oldstate == "ESTABLISHED" == before.newstate and after.rport == PORT:
                bracket = established(observed, after.lport)
                checks.append(
                    judge.duration(skaddr, "time in ESTABLISHED", bracket, after.spent_ns, resolution_ns=1000)
                )
    lab.check(checks)
    assert any(check.unit == "ns" for check in checks)


def until_port(process, port):
    """Return its rows, up to the first in which a socket of this port is over."""
    rows = []
    for row in libbpf.states(process.stdout):
        rows.append(row)
        if port in (row.lport, row.rport) and row.newstate == "CLOSE":
            break
    return rows


def changes_of(observed):
    """Name the changes of each socket as tcpstates would."""
    changes = defaultdict(list)
    for row in transitions(observed.recording.events["states"]):
        if row["netns"] in observed.inodes:
            newstate = State(row["newstate"])
            changes[f"{int(row['skaddr']):x}"].append(
                f"{State(row['oldstate']).name} -> {HAND_OVER.get(newstate, newstate.name)}"
            )
    return changes


def established(observed, lport):
    """How long a client can have been in ESTABLISHED: connect() and close() were stamped before and after."""
    (client,) = (it.client for it in observed.connections if it.client.flow.lport == lport)
    connect, close = client.find("connect"), client.find("close")
    low_ns, high_ns = close.enter_ns - connect.exit_ns, close.exit_ns - connect.enter_ns
    return Bracket(low_ns, high_ns, (low_ns + high_ns) // 2)


def test_tcprtt_says_why_it_cannot_run():
    """libbpf-tools' tcprtt needs fentry or kprobes: where it runs, `lab rtt` has the same attach points, here it has none."""
    (tcprtt,) = [tool for tool in libbpf.TOOLS if tool.name.endswith("tcprtt")]
    why = tools.refusal(tcprtt)
    assert why is None or "kprobe" in why
