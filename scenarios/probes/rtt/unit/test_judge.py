"""The judge of the probe `rtt`: the longest possible sample, depending on how the kernel took it."""

import numpy as np
from support.made.rtt import of_socket
from support.made.timelines import END, FLOW, REPLY, REQUEST, connection

from lab.linux.tcp_counters import Sent
from lab.observation import Observed
from lab.probes.rtt.judge import checks
from lab.recording.recording import Recording

CLIENT, SERVER = 1, 2
TICK_US = 1000


def wrong(client_us, *sent):
    """Judge samples of the client's socket; return the subjects of failed checks. `sent` is of client and server."""
    totals = [of_socket(FLOW, CLIENT, client_us), of_socket(FLOW.reversed(), SERVER, [0, 0])]
    recording = Recording({}, attach_points={"rtt": ["here"]}, totals={"rtt": np.concatenate(totals)})
    observed = Observed((CLIENT, SERVER), recording, [connection(REQUEST, REPLY)], END, sent=sent)
    return {check.subject for check in checks(observed, "") if "sample" in check.quantity and not check.passed}


def test_a_sample_by_time_stamps_is_at_most_one_tick_longer():
    """A retransmitted segment is measured by TCP time stamps, in ticks of 1 ms; a larger error is wrong."""
    once, again = Sent(10), Sent(10, retransmitted=1)
    assert wrong([0, TICK_US], again, once) == set()
    assert wrong([0, 2 * TICK_US], again, once) == {str(FLOW)}


def test_no_tolerance_without_a_retransmission():
    """A retransmission by the other host does not add a tick either."""
    once, again = Sent(10), Sent(10, retransmitted=1)
    assert wrong([0, TICK_US], once, once) == {str(FLOW)}
    assert wrong([0, TICK_US], once, again) == {str(FLOW)}
