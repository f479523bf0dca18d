"""Third-party tools on the same traffic as this project's probes: both have to agree with the truth."""

from collections import defaultdict
from itertools import pairwise

import pytest

from lab.judging import description
from lab.judging.running import refusal, running
from lab.probes.states.measure import transitions
from lab.tcp import State
from lab.traffic.demo.conversation import Conversation
from lab.units import MS
from lab.verdict import Bracket, Judge

TCPSTATES, TCPRTT = description.named(["libbpf-tcpstates", "libbpf-tcprtt"])
HAND_OVER = {State.TIME_WAIT: "CLOSE"}  # S2: tcpstates reports the hand-over to a timewait minisock as the end
PORT = 20_998  # no other scenario uses it: tcpstates observes the whole machine
ROUNDS = 10


@pytest.mark.parametrize("version", [4, 6])
def test_tcpstates_agrees(lab, version):
    """Every state change that libbpf-tools' tcpstates prints is one of ours, and its time in ESTABLISHED is true.

    Known errors of tcpstates are left out: the first row's time (S3), the time in SYN_RECV (S1), the owner (S7), and
    TIME_WAIT (S2). tcpstates loses rows, nearly all while another process opens thousands of connections. Without rows
    to compare the conversation is repeated.
    """
    conversation, checks = Conversation(hold_ns=30 * MS, linger_ns=20 * MS), []
    with running(TCPSTATES) as run:
        for _ in range(ROUNDS):
            observed = lab.converse(conversation, version=version, connections=5, port=PORT)
            lab.judge("states", observed)
            run.await_quiet(5.0)
            checks += compared(observed, run.rows(), lab.scenario)
            if any(check.unit == "ns" for check in checks):
                break
    lab.check(checks)
    assert any(check.unit == "ns" for check in checks)


def compared(observed, printed, scenario):
    """Yield checks for each printed state change of an observed socket, if the change before it was printed, too."""
    ours, theirs = changes_of(observed), defaultdict(list)
    for row in printed:
        if row.get("socket") in ours and PORT in (row.get("lport"), row.get("rport")):
            theirs[row.get("socket")].append(row)
    judge = Judge(scenario, TCPSTATES.name, "tracepoint:inet_sock_set_state")
    for skaddr, rows in theirs.items():
        for before, after in pairwise(rows):
            change = f"{after.get('oldstate')} -> {after.get('newstate')}"
            yield judge.one_of(skaddr, "change of state", ours[skaddr], change)
            if after.get("oldstate") == "ESTABLISHED" == before.get("newstate") and after.get("rport") == PORT:
                bracket = established(observed, after.get("lport"))
                yield judge.duration(skaddr, "time in ESTABLISHED", bracket, after.get("value"), resolution_ns=1000)


def changes_of(observed):
    """Return the state changes of each socket, in the form that tcpstates prints."""
    changes = defaultdict(list)
    for row in transitions(observed.recording.events["states"]):
        if row["netns"] in observed.inodes:
            newstate = State(row["newstate"])
            changes[f"{int(row['skaddr']):x}"].append(
                f"{State(row['oldstate']).name} -> {HAND_OVER.get(newstate, newstate.name)}"
            )
    return changes


def established(observed, lport):
    """Bracket of a client's time in ESTABLISHED, from the timestamps around connect() and close()."""
    (client,) = (it.client for it in observed.connections if it.client.flow.lport == lport)
    connect, close = client.find("connect"), client.find("close")
    low_ns, high_ns = close.enter_ns - connect.exit_ns, close.exit_ns - connect.enter_ns
    return Bracket.middle(low_ns, high_ns)


def test_tcprtt_runs_or_names_the_missing_kprobes():
    """libbpf-tools' tcprtt needs fentry or kprobes. Without them its error names kprobes."""
    why = refusal(TCPRTT)
    assert why is None or "kprobe" in why
