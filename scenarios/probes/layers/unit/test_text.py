"""Requests as lines, percentiles, histograms, waterfall, trace and picture."""

import json
from collections import defaultdict

import numpy as np
import pytest
from support.made.layers import CLIENT_NETNS, FLOW, PORT, SERVER_NETNS, Network, points, talk

from lab.arrays import UNKNOWN
from lab.errors import LabError
from lab.output.file import require_writable
from lab.probes.layers import text
from lab.probes.layers.perfetto import write_trace
from lab.probes.layers.plot import draw
from lab.probes.layers.requests import REQUEST, Kind, requests
from lab.probes.layers.stages import LAYERS, Stages


def rows(hosts=(CLIENT_NETNS, SERVER_NETNS), turns=5):
    """Return requests of two simultaneous connections."""
    found = []
    for seed, flow in ((1, FLOW), (2, FLOW._replace(lport=40001))):
        network = Network(seed)
        network.open(flow, 8, 9)
        talk(network, flow, (8, 9), turns)
        found += network.rows
    return requests(Stages(points(*found), hosts), PORT).rows


def test_a_line_has_every_layer():
    """The two lines of a request have all values of its row, in microseconds."""
    found = rows()
    for row, as_json in zip(found, text.as_dicts(found), strict=True):
        asked, answered = (line.split() for line in text.line(as_json).splitlines())
        assert asked[:2] == [f"192.0.2.1:{row['cport']}", "request"]
        assert answered[0] == "reply"
        shown = [*asked[3:], *answered[2:-2]]
        assert shown == [f"{ns / 1000:.1f}" for ns in row["layers_ns"].ravel()]
        assert answered[-1] == f"{row['total_ns'] / 1000:.1f}"
        times_ns = [as_json[f"{leg}_{name}_ns"] for leg in ("request", "reply") for name in LAYERS]
        assert sum(times_ns) + as_json["elsewhere_ns"] == as_json["total_ns"]
    assert len(text.header().split()) == len(text.line(as_json).splitlines()[1].split()) + 1


def test_layers_not_observed_are_dashes():
    """Layers of a host that was not observed are null or a dash, not zero."""
    (as_json,) = text.as_dicts(rows((CLIENT_NETNS,))[:1])
    assert as_json["request_wire_ns"] is None
    assert as_json["reply_wake_up_ns"] is not None
    assert text.line(as_json).splitlines()[0].split()[7:] == ["-"] * 7


def test_percentiles():
    """Percentiles are values that occurred, and the shares of all layers add up to 1."""
    requests = rows(turns=50)
    layers = {(row["leg"], row["layer"]): row for row in text.summary(requests)}
    assert len(layers) == 2 * len(LAYERS) + 2
    wire = np.sort(requests["layers_ns"][:, 0, LAYERS.index("wire")])
    row = layers["request", "wire"]
    assert (row["requests"], row["host"]) == (100, "wire")
    assert [row["p50_ns"], row["p90_ns"], row["p99_ns"], row["max_ns"]] == wire[[49, 89, 98, 99]].tolist()
    assert sum(row["share"] for key, row in layers.items() if key[1] != "total") == pytest.approx(1, abs=0.002)
    assert len(list(text.summary_lines(requests))) == 2 + len(layers)
    assert list(text.summary_lines(requests[:0])) == []


def test_waterfall():
    """The bars of the layers are in order of time, and their times add up to the total."""
    row = text.typical(rows())
    head, *lines = text.waterfall(row)
    assert f"{row['bytes'][0]} bytes, {row['bytes'][1]} back" in head
    bars = [line.split("|")[1] for line in lines]
    begins = [len(bar) - len(bar.lstrip()) for bar in bars]
    assert begins == sorted(begins)
    assert {len(line) for line in lines} == {80}
    assert sum(float(line.split()[3]) for line in lines) == pytest.approx(row["total_ns"] / 1000, abs=0.05 * len(lines))


def test_the_typical_request_is_the_median():
    """Of an odd number of requests, as many are slower as faster than the typical one."""
    requests = rows()[:9]
    total_ns = text.typical(requests)["total_ns"]
    assert (requests["total_ns"] < total_ns).sum() == (requests["total_ns"] > total_ns).sum() == 4
    with pytest.raises(ValueError, match="has no requests"):
        text.typical(requests[:0])


def test_histograms():
    """Each layer that took time has a histogram."""
    requests = rows()
    shown = "\n".join(text.histograms(requests))
    assert shown.count("nsecs") == shown.count("distribution") >= 18
    assert "request, wire (wire)" in shown
    assert "resend" not in shown


def test_trace(tmp_path):
    """Each layer of each request is a slice on a track of its host and layer. Slices of a track do not overlap."""
    requests = rows()
    write_trace(path := tmp_path / "trace.json", requests)
    events = json.loads(path.read_text())["traceEvents"]
    names = {
        (event["pid"], event.get("tid")): event["args"]["name"] for event in events if event["name"].endswith("_name")
    }
    assert {names[number, None] for number in (1, 2, 3)} == {"client", "wire", "server"}
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append((event["ts"], event["dur"]))
    assert set(tracks) <= set(names)
    assert {names[track].split(" (")[0] for track in tracks} == {
        f"{leg} {name}" for leg in ("request", "reply") for name in LAYERS
    }
    for slices in tracks.values():
        for (begin, lasts), (following, _) in zip(sorted(slices), sorted(slices)[1:], strict=False):
            assert begin + lasts <= following + 1e-3
    lasted = sum(lasts for slices in tracks.values() for _, lasts in slices)
    assert sum(map(len, tracks.values())) == 2 * len(LAYERS) * len(requests)
    assert lasted == pytest.approx(requests["total_ns"].sum() / 1000)


def test_files_that_cannot_be_written(tmp_path):
    """A file that cannot be written is an error with a remedy, and so is a picture of no requests."""
    for attempt in (lambda path: write_trace(path, rows()), require_writable):
        with pytest.raises(LabError, match="choose another file"):
            attempt(tmp_path / "missing" / "trace.json")
    with pytest.raises(LabError, match="no request was seen"):
        draw(tmp_path / "layers.png", np.zeros(0, REQUEST))
    with pytest.raises(LabError, match="choose another file"):
        draw(tmp_path / "missing" / "layers.png", rows())


@pytest.mark.parametrize("hosts", [(CLIENT_NETNS, SERVER_NETNS), (SERVER_NETNS,)])
def test_picture(tmp_path, hosts):
    """The picture is drawn for both hosts and for one."""
    draw(path := tmp_path / "layers.svg", rows(hosts))
    shown = path.read_text()
    assert shown.startswith("<?xml")
    assert len(shown) > 10_000


def test_lines_of_what_is_no_plain_request():
    """Q2, Q4: a stream shows when its first byte came; a push and a stretch are one line without unknown times."""
    row = rows()[:1]
    row["spans_ns"] = [[1000, 2000], [5000, 9000]]
    lines = {}
    for kind in Kind:
        row["kind"] = kind
        if kind is Kind.STRETCH:
            row["layers_ns"] = row["total_ns"] = row["elsewhere_ns"] = UNKNOWN
        (as_json,) = text.as_dicts(row)
        lines[kind] = text.line(as_json)
    assert lines[Kind.STREAM].splitlines()[1].split()[0] == "stream"
    assert lines[Kind.STREAM].endswith(" first byte after 4.0")
    ((asked, answered),) = row["bytes"]
    ends = f"stretch {asked} bytes in 1.0 us to the server, {answered} bytes in 4.0 us to the client"
    assert lines[Kind.STRETCH].endswith(ends)
    assert next(text.as_dicts(row))["total_ns"] is None
    assert lines[Kind.PUSH].split()[1:3] == ["push", str(answered)]
    assert lines[Kind.PUSH].count("\n") == lines[Kind.STRETCH].count("\n") == 0
