"""What a Prometheus server reads of the totals of round-trip times."""

from argparse import Namespace

import numpy as np
import pytest
from support.exporters import served
from support.made.rtt import of_socket, total
from support.made.timelines import FLOW

from lab.probes.rtt.metrics import families


def samples(*totals, **options):
    """Return the samples of these totals with some options of the tool."""
    names = ("laddr_hist", "raddr_hist", "by_connection", "ms", "raw")
    return served(families(Namespace(**dict.fromkeys(names, False) | options)), np.concatenate(totals))


def test_values():
    """Each is in the buckets up to its own, and all add up; a total without values adds nothing."""
    found = samples(total([5, 6, 900]), total([20]), total([], unclear=3))
    assert found.total("tcp_smoothed_rtt_seconds_count") == 4
    assert found.total("tcp_smoothed_rtt_seconds_sum") == pytest.approx(931e-6)
    buckets = {
        bound: found.total("tcp_smoothed_rtt_seconds_bucket", le=bound) for bound in ("1.5e-05", "3.1e-05", "0.001023")
    }
    assert buckets == {"1.5e-05": 2, "3.1e-05": 3, "0.001023": 4}
    bounds = sorted(map(float, found.bounds("tcp_smoothed_rtt_seconds")))
    assert (bounds[0], bounds[-1]) == (15e-6, pytest.approx(67.108863))


def test_milliseconds():
    """The buckets are those of milliseconds; sums stay microseconds."""
    found = samples(total([1]), ms=True)
    assert min(map(float, found.bounds("tcp_smoothed_rtt_seconds"))) == 0.001999
    assert found.total("tcp_smoothed_rtt_seconds_bucket", le="0.001999") == 1


def test_single_samples():
    """Those whose value is not known, or not of the network, are counted apart."""
    row = total([5], unclear=3)
    row["distorted"] = 2
    found = samples(row, raw=True)
    names = ("tcp_rtt_seconds_count", "tcp_rtt_unclear_samples_total", "tcp_rtt_distorted_samples_total")
    assert [found.total(name) for name in names] == [1, 3, 2]
    assert found.total("tcp_smoothed_rtt_seconds_count") == 0


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({}, set()),
        ({"laddr_hist": True}, {"local_address"}),
        ({"raddr_hist": True}, {"remote_address"}),
        ({"laddr_hist": True, "raddr_hist": True}, {"local_address", "remote_address"}),
        ({"by_connection": True}, {"local_address", "local_port", "remote_address", "remote_port"}),
    ],
)
def test_labels(options, labels):
    """They are those that the tool groups by."""
    ends = dict(zip(("local_address", "local_port", "remote_address", "remote_port"), map(str, FLOW), strict=True))
    found = samples(of_socket(FLOW, 1, [5]), **options)
    (shown,) = {its for name, its in found.values if name == "tcp_smoothed_rtt_seconds_count"}
    assert dict(shown) == {name: ends[name] for name in labels}
