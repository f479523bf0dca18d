"""The verdict on the probe `rtt`: how long a sample can have been, by how it was taken."""

import numpy as np
from support.made.rtt import of_socket
from support.made.timelines import END, FLOW, REPLY, REQUEST, connection

from lab.ebpf.recording import Recording
from lab.linux.tcp_counters import Sent
from lab.observation import Observed
from lab.probes.rtt.judge import checks

CLIENT, SERVER = 1, 2
TICK_US = 1000


def wrong(client_us, *sent):
    """Judge samples of the client's socket, where client and server have sent so much; returns whose times are wrong."""
    totals = [of_socket(FLOW, CLIENT, client_us), of_socket(FLOW.reversed(), SERVER, [0, 0])]
    recording = Recording({}, attach_points={"rtt": ["here"]}, totals={"rtt": np.concatenate(totals)})
    observed = Observed((CLIENT, SERVER), recording, [connection(REQUEST, REPLY)], END, sent=sent)
    return {check.subject for check in checks(observed, "") if "sample" in check.quantity and not check.passed}


def test_a_sample_by_time_stamps_is_a_tick_longer_at_most():
    """What was sent again is measured by its time stamps, in ticks of a millisecond; a larger time is wrong all the same."""
    once, again = Sent(10), Sent(10, retransmitted=1)
    assert wrong([0, TICK_US], again, once) == set()
    assert wrong([0, 2 * TICK_US], again, once) == {str(FLOW)}


def test_without_retransmission_there_is_no_such_sample():
    """What the other host has sent again is no excuse."""
    once, again = Sent(10), Sent(10, retransmitted=1)
    assert wrong([0, TICK_US], once, once) == {str(FLOW)}
    assert wrong([0, TICK_US], once, again) == {str(FLOW)}
