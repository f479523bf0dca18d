"""Metrics of live tools: buckets, label sets, their limit, and their documentation. No kernel needed."""

import argparse
import importlib
import re
from operator import itemgetter

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from support.exporters import Samples, served

from lab import probes
from lab.arrays import UNKNOWN
from lab.commands import doctor
from lab.errors import LabError
from lab.live import metrics
from lab.live.account import Account
from lab.live.metrics import Counter, Exporter, Histogram, decades, field
from lab.live.output import Output
from lab.paths import CHECKOUT

ROW = [("who", "u1"), ("time_ns", "i8"), ("size", "u4")]
WHO = {"who": field("who", lambda number: f"w{number}")}


def rows(*values):
    """Return rows from tuples of who, time_ns and size."""
    return np.array(list(values), ROW)


def test_bounds():
    """1, 2.5 and 5 of each decade, both ends included, as exact integers."""
    assert decades(10, 1000) == [10, 25, 50, 100, 250, 500, 1000]
    assert decades(1000, 1_000_000)[:3] == [1000, 2500, 5000]


def test_a_time_at_a_bound_is_below_it():
    """A bucket holds the times up to its bound, to the nanosecond; unknown times are in none."""
    histogram = Histogram("t_seconds", "", {}, itemgetter("time_ns"), [1000, 2500])
    times = (0, 1000, 1001, 2500, 2501, UNKNOWN)
    samples = served([histogram], rows(*((0, time_ns, 0) for time_ns in times)))
    assert [samples.total("t_seconds_bucket", le=bound) for bound in ("1e-06", "2.5e-06", "+Inf")] == [2, 4, 5]
    assert samples.total("t_seconds_count") == 5
    assert samples.total("t_seconds_sum") == (1000 + 1001 + 2500 + 2501) / 1e9


def test_amounts():
    """A counter adds up its amounts by label; a label set without an amount is not there."""
    counter = Counter("s", "", WHO, itemgetter("size"))
    samples = served([counter], rows((1, 0, 10), (2, 0, 5), (1, 0, 1), (3, 0, 0)))
    values = {dict(labels)["who"]: value for (name, labels), value in samples.values.items() if name == "s_total"}
    assert values == {"w1": 11, "w2": 5}


def test_without_labels_there_is_a_series_from_the_start():
    """Otherwise a server would not see the first increase."""
    samples = served([Counter("s", "", {})], rows())
    assert ("s_total", frozenset()) in samples.values


def test_values_with_one_text_are_one_series():
    """Two series of the same labels would be an error of the format."""
    both = {"who": field("who", lambda number: "odd" if number % 2 else "even")}
    samples = served([Counter("s", "", both)], rows((1, 0, 0), (2, 0, 0), (3, 0, 0)))
    assert [samples.total("s_total", who=who) for who in ("odd", "even")] == [2, 1]


def test_label_sets_beyond_the_limit(monkeypatch, capsys):
    """They are added up, those that are known go on; the tool says so once, and in its account."""
    monkeypatch.setattr(metrics, "MOST_SERIES", 3)
    account, registry = Account(), CollectorRegistry()
    exporter = Exporter("tool", [Counter("s", "", WHO)], account)
    registry.register(exporter)
    for _ in range(2):
        exporter.add(rows(*((who, 0, 0) for who in range(5))))
    samples = Samples(generate_latest(registry).decode())
    assert [samples.total("s_total", who=who) for who in ("w0", "w1", "w2", "other")] == [2, 2, 2, 4]
    assert samples.total("s_total") == 10
    assert account.notes == ["s has more than 3 label sets: further ones are added up as one, whose labels are `other`"]
    assert capsys.readouterr().err.count("label sets") == 1


def test_losses():
    """The account's numbers are metrics."""
    account, registry = Account(), CollectorRegistry()
    registry.register(Exporter("states", [], account))
    account.add_without_room(3)
    account.add_withheld(2)
    samples = Samples(generate_latest(registry).decode())
    lost = [samples.total("lab_events_lost_total", tool="states", reason=why) for why in ("no_room", "not_run")]
    assert lost == [3, 2]


def test_a_tool_without_metrics():
    """One sentence."""
    args = argparse.Namespace(
        json=False, csv=False, wide=False, metrics=("127.0.0.1", 0), ready_fd=None, run=doctor.run
    )
    with pytest.raises(LabError, match="has no metrics: leave --metrics out"):
        Output(args).start()


def described(probe, *options):
    """Return the samples' names of a probe's metrics, without the suffixes of histograms."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"lab.probes.{probe}.cli").add_arguments(parser)
    args = parser.parse_args([*(["client"] if probe == "analyse" else []), *options])
    families = importlib.import_module(f"lab.probes.{probe}.metrics").families(args)
    return {f"{it.name}_total" if isinstance(it, Counter) else it.name for it in families}


def test_every_metric_is_documented():
    """The table in docs/grafana has each metric of each tool, and no other."""
    text = (CHECKOUT / "docs" / "grafana" / "README.md").read_text()
    documented = set(re.findall(r"^\|[^|]*\| `((?:tcp|network)_\w+)` \|", text, re.MULTILINE))
    assert documented == set().union(*map(described, probes.names()), described("rtt", "--raw"))
