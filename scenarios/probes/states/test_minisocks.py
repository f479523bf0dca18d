"""The probe `states` and timewait minisocks that something else than the peer's FIN ends.

S10 is a row of the corpus of known wrong numbers in docs/truth.md.
"""

import time

import numpy as np
import pytest
from support.handshakes import PORT, connected
from support.processes import HUNG_S, kill_sockets

from lab.linux.netns import tcp_sockets
from lab.probes.states.measure import transitions
from lab.recording.recorder import record
from lab.tcp import State

CLOSING = [State.ESTABLISHED, State.FIN_WAIT1, State.FIN_WAIT2, State.TIME_WAIT]
both_versions = pytest.mark.parametrize("version", [4, 6])


def closing_of(recorder, host):
    """Return the rows after ESTABLISHED of a host's only connection."""
    rows = transitions(recorder.recording.events["states"])
    return rows[(rows["netns"] == host.inode) & np.isin(rows["oldstate"], CLOSING)]


def names(rows):
    """Return the names of the states that the rows enter."""
    return [State(row["newstate"]).name for row in rows]


def await_minisock(host):
    """Wait until the only connection of a host is in FIN_WAIT2."""
    deadline = time.monotonic() + HUNG_S
    while {found.state for found in tcp_sockets(host.name)} != {State.FIN_WAIT2}:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def ended_in_fin_wait2(net, version, end):
    """Return the rows of a connection that `end` ends when it is in FIN_WAIT2; `end` gets the peer's socket."""
    with record("states") as recorder:
        with connected(net, version) as (client, server, _):
            client.close()
            await_minisock(net.client)
            end(server)
        net.quiesce()
    rows = closing_of(recorder, net.client)
    assert names(rows) == ["FIN_WAIT1", "FIN_WAIT2", "CLOSE"]
    return rows


@both_versions
def test_ss_ends_fin_wait2(net, version):
    """S10: `ss -K` on a minisock in FIN_WAIT2 ends the wait: CLOSE follows."""
    stamps = []

    def kill(_):
        stamps.append(time.monotonic_ns())
        kill_sockets(net.client, "dport", "=", f":{PORT}")
        stamps.append(time.monotonic_ns())

    rows = ended_in_fin_wait2(net, version, kill)
    assert stamps[0] <= rows["time_ns"][-1] <= stamps[1]
    assert rows["duration_ns"][-1] == rows["time_ns"][-1] - rows["time_ns"][-2]


@both_versions
def test_data_ends_fin_wait2(net, version):
    """The peer's data ends a minisock in FIN_WAIT2 with a RST: CLOSE follows."""
    ended_in_fin_wait2(net, version, lambda server: server.send(b"x"))


def test_time_wait_is_the_last_state(net):
    """S10: the end of TIME_WAIT has no row, also if `ss -K` ends it."""
    with record("states") as recorder:
        with connected(net) as (client, _, _):
            client.close()
        net.quiesce()
        kill_sockets(net.client, "dport", "=", f":{PORT}")
    assert names(closing_of(recorder, net.client)) == ["FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT"]
