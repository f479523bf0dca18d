"""The judge of the probe `rtt`: it calls each wrong number wrong, and the longest possible sample depends on the kernel."""

from dataclasses import replace

import numpy as np
import pytest
from support.made import observed as made
from support.made.observed import PACKETS, SYN_ACK_AGAIN, WIRE, changed, intervals, observed, without
from support.made.rtt import of_socket
from support.made.timelines import END, FLOW, REPLY, REQUEST, connection

from lab.linux.tcp_counters import Sent
from lab.observation import Observed
from lab.probes.rtt.judge import checks
from lab.recording.recording import Recording

CLIENT, SERVER = 1, 2
TICK_US = 1000
AVERAGES, SAMPLES = 0, 1  # rows of the client; those of the server follow
AMONG = {"smallest srtt among the samples, us", "largest srtt among the samples, us"}


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


@pytest.mark.parametrize("known", [{}, WIRE, WIRE | {"taps": True}])
@pytest.mark.parametrize("packets", [PACKETS, made.AGAIN])
def test_what_is_true(packets, known):
    """A true recording has no wrong number, whatever else is known."""
    assert made.wrong(observed(packets, **known), "rtt") == set()


@pytest.mark.parametrize("side", [0, 2])
@pytest.mark.parametrize("known", [{}, WIRE])
@pytest.mark.parametrize(
    ("number", "fields", "quantities"),
    [
        (SAMPLES, {"count": 1}, {"RTT samples", "RTT histogram"}),
        (SAMPLES, {"count": 3}, {"RTT samples", "RTT histogram"}),
        (SAMPLES, {"unclear": 1}, {"unclear RTT samples"}),
        (SAMPLES, {"distorted": 1}, {"RTT samples"}),
        (SAMPLES, {"max_us": 2}, {"largest RTT sample", "RTT histogram"}),
        (SAMPLES, {"min_us": 1, "max_us": 1}, AMONG),
        (SAMPLES, {"min_us": 2, "max_us": 1}, {"smallest RTT sample", "RTT histogram", *AMONG}),
        (SAMPLES, {"sum_us": 4}, {"sum of RTT samples"}),
        (SAMPLES, {"slots": 0}, {"RTT histogram"}),
        (SAMPLES, {"netns": 9}, {"RTT samples"}),
        (AVERAGES, {"count": 0}, {"segments with an srtt"}),
        (AVERAGES, {"count": 13}, {"segments with an srtt", "srtt histogram"}),
        (AVERAGES, {"count": 2}, {"srtt histogram"}),
        (AVERAGES, {"max_us": 2}, {"largest srtt", "largest srtt among the samples, us", "srtt histogram"}),
        (AVERAGES, {"min_us": 2, "max_us": 1}, {"smallest srtt", "srtt histogram", *AMONG}),
        (AVERAGES, {"slots": 0}, {"srtt histogram"}),
        (AVERAGES, {"lport": 1}, {"segments with an srtt"}),
    ],
)
def test_one_wrong_number(side, number, fields, quantities, known):
    """It contradicts the applications, or the other numbers of its row."""
    assert made.wrong(changed(observed(**known), "rtt", side + number, **fields), "rtt") == quantities


def test_rows_that_were_missed():
    """A socket without a row has no samples."""
    assert made.wrong(without(observed(), "rtt", SAMPLES), "rtt") == {"RTT samples"}
    assert made.wrong(without(observed(), "rtt", AVERAGES), "rtt") == {"segments with an srtt"}


def test_a_distorted_sample_may_have_been_the_smallest():
    """Its value is not kept: it counts as one, and the smallest of the others may be as long as the longest."""
    one = changed(observed(), "rtt", SAMPLES, distorted=1, count=1)
    one.recording.totals["rtt"]["slots"][SAMPLES, 0] = 1
    found = intervals(one, "rtt")
    assert made.wrong(one, "rtt") == set()
    assert found[str(FLOW), "smallest RTT sample"] == (0, 200)
    assert not {(str(FLOW), quantity) for quantity in (*AMONG, "sum of RTT samples")} & found.keys()
    assert intervals(observed(), "rtt")[str(FLOW), "smallest RTT sample"] == (0, 100)


def test_bounds():
    """Samples take as long as the applications waited, with a log at least the least round trip of the wire."""
    found, there, back = intervals(observed(), "rtt"), str(FLOW), str(FLOW.reversed())
    assert [found[who, "largest RTT sample"] for who in (there, back)] == [(0, 200), (0, 300)]
    assert [found[who, "sum of RTT samples"] for who in (there, back)] == [(0, 300), (0, 430)]
    assert [found[who, "segments with an srtt"] for who in (there, back)] == [(1, 10), (1, 12)]
    on_wire = intervals(observed(**WIRE), "rtt")
    assert on_wire[there, "smallest RTT sample"] == (6 + 6, 100)  # the quickest segment each way
    assert [on_wire[who, "segments with an srtt"] for who in (there, back)] == [(1, 5), (1, 6)]


def test_a_retransmission_without_time_stamps_has_no_certain_sample():
    """Karn's algorithm: with time stamps the number of samples is known, without it is a bound."""
    again = replace(observed(), sent=(Sent(6, retransmitted=1), Sent(5)))
    assert intervals(again, "rtt")[str(FLOW), "RTT samples"] == (2, 2)
    unsure = intervals(replace(again, timestamps=False), "rtt")
    assert unsure[str(FLOW), "RTT samples"] == (0, 2)
    assert unsure[str(FLOW.reversed()), "RTT samples"] == (2, 2)
    assert intervals(replace(observed(), timestamps=False), "rtt")[str(FLOW), "RTT samples"] == (2, 2)


def test_a_syn_ack_that_may_have_been_sent_again():
    """Then it may have no sample: by the counter of the host, or by the wire's log, which knows."""
    again = replace(observed(), sent=(Sent(6), Sent(5, retransmitted_syns=1)))
    assert intervals(again, "rtt")[str(FLOW.reversed()), "RTT samples"] == (1, 2)
    logged = replace(observed(**WIRE), sent=again.sent)
    assert intervals(logged, "rtt")[str(FLOW.reversed()), "RTT samples"] == (2, 2)
    twice = observed(SYN_ACK_AGAIN, **WIRE)
    assert intervals(twice, "rtt")[str(FLOW.reversed()), "RTT samples"] == (1, 2)
