"""The probe `duration` on connections that are not opened by one SYN and one SYN-ACK."""

import socket

import pytest
from support.stamped_sockets import FAMILY

from lab.arrays import UNKNOWN
from lab.ebpf.interface import Device
from lab.linux.netns import inside
from lab.observation import Observed
from lab.probes.duration.measure import lifetimes
from lab.recording.recorder import record
from lab.tcp import Ended, Flow, Side
from lab.traffic.demo.stamped_socket import StampedSocket
from lab.units import MS
from lab.verdict import Bracket


@pytest.mark.parametrize("how", ["close", "shutdown", "reset"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_connected_to_itself(lab, address, how):
    """D7: a socket that is connected to itself has one FIN, which ends both directions."""
    host = lab.net.client
    with record("duration", devices=[Device.find("lo", host.name)]) as recorder:
        family = FAMILY[6 if ":" in address else 4]
        sock = StampedSocket("client", inside(host.name, lambda: socket.socket(family)))
        sock.socket.bind((address, 4000))
        assert sock.connect((address, 4000))
        sock.sleep(5 * MS)
        if how == "shutdown":
            sock.shutdown()
            sock.recv_until_end()
        if how == "reset":
            sock.reset_on_close()
        sock.close()
        end_ns = lab.net.quiesce()
    judge = Observed(lab.net.inodes, recorder.recording, end_ns=end_ns).judge(lab.scenario, "duration")
    (row,) = lifetimes(recorder.recording.events["duration"], end_ns)
    flow = Flow(address, 4000, address, 4000)
    connect, closing = sock.timeline.find("connect"), sock.timeline.closing
    start = Bracket.middle(connect.enter_ns, connect.exit_ns)
    end = Bracket.middle(closing.enter_ns, closing.exit_ns)
    again = int(row["syn_retransmissions"]), int(row["fin_retransmissions"])
    second_fin_ns = UNKNOWN if how == "reset" else int(row["duration_ns"])
    lab.check(
        [
            judge.equal(str(flow), "flow", str(flow), str(Flow.of(row))),
            judge.equal(str(flow), "ended by", "RST" if how == "reset" else "FIN", Ended(row["ended"]).name),
            judge.equal(str(flow), "closed first by", "CLIENT", Side(row["closed_first"]).name),
            judge.equal(str(flow), "SYN and FIN again", str((0, 0)), str(again)),
            judge.duration(str(flow), "first SYN at", start, int(row["start_ns"])),
            judge.duration(str(flow), "first FIN or RST at", end, int(row["end_ns"])),
            judge.duration(
                str(flow), "first SYN to first FIN or RST", Bracket.between(start, end), int(row["duration_ns"])
            ),
            judge.equal(str(flow), "first SYN to second FIN", second_fin_ns, int(row["second_fin_ns"])),
        ]
    )
