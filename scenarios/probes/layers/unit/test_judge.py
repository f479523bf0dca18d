"""The judge of the probe `layers`: it calls each wrong number wrong, and none of the right ones."""

import numpy as np
import pytest
from support.made.observed import AGAIN, PACKETS, WIRE, changed, intervals, observed, with_events, without, wrong
from support.made.timelines import FLOW

from lab.arrays import UNKNOWN
from lab.probes.layers.judge import judge_request
from lab.probes.layers.requests import requests_of
from lab.probes.layers.stages import LAYERS, At, Stop
from lab.truth.requests import exchanges
from lab.verdict import Judge

SUBJECT = f"{FLOW.laddr}:{FLOW.lport} request 1"
UNSEEN, SUM, NUMBER = "layers that were not seen", "sum of all layers", "requests with a reply"


def number_of(leg, at):
    """Return the number of the only point of a message at a place."""
    rows = observed().recording.events["layers"]
    sender = FLOW.lport if leg == "request" else FLOW.rport
    (found,) = np.flatnonzero(
        (rows["at"] == at) & (rows["sport"] == sender) & ((rows["length"] > 0) | (at == At.READY))
    )
    return int(found)


@pytest.mark.parametrize("known", [{}, WIRE, WIRE | {"taps": True}])
@pytest.mark.parametrize("packets", [PACKETS, AGAIN])
def test_what_is_true(packets, known):
    """A true recording has no wrong number, whatever else is known."""
    assert wrong(observed(packets, **known), "layers") == set()


@pytest.mark.parametrize(
    ("leg", "at", "fields", "quantities"),
    [
        ("request", At.WRITE, {"enter_ns": 199}, {"request written at"}),
        ("request", At.WRITE, {"length": 299}, {"request bytes"}),
        ("request", At.READ, {"time_ns": 251}, {"request read at"}),
        ("request", At.READ, {"sport": 1}, {UNSEEN, "request read at", "server's application"}),
        ("reply", At.WRITE, {"enter_ns": 299}, {"reply written at"}),
        ("reply", At.READ, {"time_ns": 401}, {"reply read at"}),
        ("reply", At.READ, {"time_ns": 500}, {"reply read at", "round trip", "reply on its way"}),
        ("reply", At.READ, {"length": 299}, {"reply bytes"}),
    ],
)
def test_one_wrong_number(leg, at, fields, quantities):
    """It contradicts the calls of the applications."""
    assert wrong(changed(observed(), "layers", number_of(leg, at), **fields), "layers") >= quantities


@pytest.mark.parametrize("leg", ["request", "reply"])
@pytest.mark.parametrize("at", [At.TC_OUT, At.DEVICE_OUT, At.DEVICE_IN, At.TC_IN, At.TCP_IN, At.READY])
def test_one_point_that_was_missed(leg, at):
    """The layers on both sides of it were not seen."""
    assert UNSEEN in wrong(without(observed(), "layers", number_of(leg, at)), "layers")


@pytest.mark.parametrize(
    ("leg", "at", "time_ns", "quantity"),
    [
        ("request", At.DEVICE_OUT, 209, "request given to the driver at"),
        ("request", At.DEVICE_IN, 218, "request taken from the driver at"),
        ("reply", At.DEVICE_OUT, 314, "reply given to the driver at"),
        ("reply", At.DEVICE_IN, 323, "reply taken from the driver at"),
        ("reply", At.TC_OUT, 314, "reply write"),
    ],
)
def test_one_time_that_is_not_that_of_the_wire(leg, at, time_ns, quantity):
    """A driver has a frame before the wire has it, and takes it after the wire has sent it."""
    changed_one = changed(observed(**WIRE), "layers", number_of(leg, at), time_ns=time_ns)
    assert quantity in wrong(changed_one, "layers")


def test_intervals_of_the_wire():
    """Each layer around the wire, and the times at both drivers."""
    found = intervals(observed(**WIRE), "layers")
    assert {name: found[SUBJECT, f"request {name}"] for name in ("write", "wire", "times sent")} == {
        "write": (0, 208 - 200),
        "wire": (219 - 208, 250 - 200),
        "times sent": (1, 1),
    }
    assert found[SUBJECT, "request given to the driver at"] == (200, 208)
    assert found[SUBJECT, "request taken from the driver at"] == (219, 250)
    assert found[SUBJECT, "reply given to the driver at"] == (300, 313)
    assert found[SUBJECT, "reply taken from the driver at"] == (324, 400)
    again = intervals(observed(AGAIN, **WIRE), "layers")
    assert again[SUBJECT, "request times sent"] == (2, 2)
    assert again[SUBJECT, "request given to the driver at"] == (200, 228)  # any of the two


def test_a_wire_that_may_have_held_nothing():
    """Its least time is 0 if its two stamps overlap."""
    quick = [packet._replace(came_ns=packet.left_ns + 5) if packet.payload else packet for packet in PACKETS]
    found = intervals(observed(quick, **WIRE), "layers")
    assert found[SUBJECT, "request wire"] == (0, 50)
    assert found[SUBJECT, "reply wire"] == (0, 100)
    assert wrong(observed(quick, **WIRE), "layers") == set()


def test_requests_of_another_connection():
    """They have no exchange."""
    whole = observed()
    rows = whole.recording.events["layers"]
    other = rows.copy()
    other["seq"] += 77  # the same segments with another port would be those of an address translation
    for name in ("sport", "dport"):
        other[name][other[name] == FLOW.lport] = 1
    more = np.concatenate([rows, other])
    more = more[np.argsort(more["time_ns"], kind="stable")]
    assert wrong(with_events(whole, "layers", more), "layers") == {"requests of no connection"}
    assert wrong(with_events(whole, "layers", other), "layers") == {NUMBER, "requests of no connection"}
    assert wrong(with_events(whole, "layers", rows[:0]), "layers") == {NUMBER}


def judged(change):
    """Return what is wrong with the request after a change of its row."""
    whole = observed()
    (row,) = requests_of(whole)
    (exchange,) = exchanges(whole.connections[0])
    change(row)
    return {check.quantity for check in judge_request(Judge("", "layers", ""), exchange, row) if not check.passed}


@pytest.mark.parametrize("leg", [0, 1])
@pytest.mark.parametrize("layer", range(len(LAYERS)))
def test_one_layer_that_is_too_long(leg, layer):
    """It is longer than its message was on its way, and the sum is another."""

    def longer(row):
        row["layers_ns"][leg, layer] += 1000

    name = ("request", "reply")[leg]
    expected = {SUM, f"{name} on its way"} if layer else {SUM, ("client's application", "server's application")[leg]}
    expected |= {f"{name} {LAYERS[layer].replace('_', '-')}"} if LAYERS[layer] in {"wake_up", "read"} else set()
    assert judged(longer) == expected


@pytest.mark.parametrize("leg", [0, 1])
@pytest.mark.parametrize("layer", range(1, len(LAYERS)))
def test_one_layer_that_is_negative_or_unknown(leg, layer):
    """No layer takes a negative time. One that was not seen is named."""

    def negative(row):
        row["layers_ns"][leg, layer] = -5

    def unknown(row):
        row["layers_ns"][leg, layer] = UNKNOWN

    name = ("request", "reply")[leg]
    assert f"{name} shortest layer" in judged(negative)
    assert UNSEEN in judged(unknown)
    assert f"{name} shortest layer" not in judged(unknown)


@pytest.mark.parametrize(
    ("fields", "quantities"),
    [
        ({"total_ns": 89}, {"round trip", SUM}),
        ({"total_ns": 201}, {"round trip", SUM}),
        ({"elsewhere_ns": 1}, {SUM}),
        ({"bytes": (299, 300)}, {"request bytes"}),
        ({"bytes": (300, 301)}, {"reply bytes"}),
    ],
)
def test_one_field_that_is_wrong(fields, quantities):
    """The other fields of the row are right."""

    def other(row):
        for name, value in fields.items():
            row[name] = value

    assert judged(other) == quantities


@pytest.mark.parametrize("leg", [0, 1])
@pytest.mark.parametrize(("stop", "name"), [(Stop.WRITTEN, "written at"), (Stop.READ, "read at")])
def test_one_stop_that_is_wrong(leg, stop, name):
    """A message is written and read inside the calls that do so."""

    def later(row):
        row["stops"][leg, stop] += 1000

    assert judged(later) == {f"{('request', 'reply')[leg]} {name}"}
