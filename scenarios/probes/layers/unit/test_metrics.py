"""What a Prometheus server reads of requests and their layers."""

from argparse import Namespace

import numpy as np
import pytest
from support.exporters import served
from support.made.observed import observed

from lab.arrays import UNKNOWN
from lab.errors import LabError
from lab.probes.layers.metrics import NOT_SERVED, families
from lab.probes.layers.requests import LEGS, Kind, requests_of
from lab.probes.layers.stages import LAYERS
from lab.probes.layers.text import host_of

PLAIN = Namespace(**dict.fromkeys(NOT_SERVED))


def test_times():
    """Each request has its total and its layers, each layer its place; what is no request has a kind only."""
    (row,) = rows = requests_of(observed())
    stretch = rows.copy()
    stretch["kind"] = Kind.STRETCH
    found = served(families(PLAIN), np.concatenate([rows, rows, stretch]))
    assert found.total("tcp_request_seconds_count") == 2
    assert found.total("tcp_request_seconds_sum") == pytest.approx(2 * row["total_ns"] / 1e9)
    for leg, name in enumerate(LEGS):
        for layer, what in enumerate(LAYERS):
            place = {"leg": name, "layer": what, "host": host_of(leg, layer)}
            assert found.total("tcp_request_layer_seconds_count", **place) == 2
            sum_s = found.total("tcp_request_layer_seconds_sum", **place)
            assert sum_s == pytest.approx(2 * row["layers_ns"][leg][layer] / 1e9)
    assert found.total("tcp_request_layer_seconds_count", layer="elsewhere", leg="", host="") == 2
    assert found.total("tcp_request_layer_seconds_count") == 2 * (len(LEGS) * len(LAYERS) + 1)
    assert [found.total("tcp_requests_total", kind=kind) for kind in ("request", "stretch")] == [2, 1]


def test_a_layer_that_is_not_known():
    """It has no time."""
    rows = requests_of(observed())
    rows["layers_ns"][0, 1, 4] = UNKNOWN
    found = served(families(PLAIN), rows)
    assert found.total("tcp_request_layer_seconds_count", leg="reply", layer=LAYERS[4]) == 0
    assert found.total("tcp_request_layer_seconds_count", leg="request", layer=LAYERS[4]) == 1


@pytest.mark.parametrize("option", NOT_SERVED)
def test_options_that_show_no_requests(option):
    """One sentence names them."""
    with pytest.raises(LabError, match=f"leave out --{option}$"):
        families(Namespace(**vars(PLAIN) | {option: True}))
