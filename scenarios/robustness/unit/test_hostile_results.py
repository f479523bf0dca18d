"""Results and recordings of anybody: whatever is in them, a command ends with an answer or with one sentence."""

import json
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.made.run_folder import checks, folder, measurements, recording, stories

from lab.cli import main
from lab.errors import LabError
from lab.recording.recording import Recording
from lab.results.export import FORMATS
from lab.results.schema import LONGEST

FILES = ("run.json", "checks.jsonl", "stories.jsonl", "bench.jsonl", "recording-1.npz")
COMMANDS = (
    ["report", "RUN", "-o", "OUT"],
    ["compare", "RUN", "RUN"],
    ["compare", "RUN", "RUN", "--json"],
    ["matrix", "RUN"],
    *(["export", "RUN", "-f", form, "-o", "OUT"] for form in FORMATS),
)
VALUES = st.sampled_from(
    [None, True, -1, 2**63, 10**400, 1e308, "", "\x1b[2J", "=1+1", "nan", [], {}, [[]] * 3, {"a": {"b": []}}, "\ud800"]
)


def places(value, at=()):
    """Return the path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] * bool(at) + [place for key, inner in items for place in places(inner, (*at, key))]


def replaced(value, place, by):
    """Put a value at a path inside a JSON value."""
    for key in place[:-1]:
        value = value[key]
    value[place[-1]] = by


@cache
def contents():
    """Return the content of each file of a run."""
    with tempfile.TemporaryDirectory() as place:
        rows = checks(count=2)
        path = folder(
            Path(place) / "run", checks=rows, measurements=measurements(), recorded=True, stories=stories(rows)
        )
        return {name: (path / name).read_bytes() for name in FILES}


@st.composite
def damaged(draw, name):
    """Return the content of a file with bytes lost, changed, repeated, or with another JSON value in one place."""
    whole = contents()[name]
    at = draw(st.integers(0, len(whole) - 1))
    how = draw(st.sampled_from(["value", "value", "value", "cut", "flip", "repeat", "deep"]))
    if how == "value" and name != "recording-1.npz":
        lines = whole.splitlines()
        number = draw(st.integers(0, len(lines) - 1))
        content = json.loads(lines[number])
        replaced(content, draw(st.sampled_from(places(content))), draw(VALUES))
        return b"\n".join([*lines[:number], json.dumps(content).encode(), *lines[number + 1 :], b""])
    if how == "deep":
        return whole[:at] + b"[" * 100_000 + whole[at:]
    if how == "cut":
        return whole[:at]
    if how == "repeat":
        return whole[:at] + whole[at // 2 :]
    return whole[:at] + bytes([draw(st.integers(0, 255))]) + whole[at + 1 :]


@pytest.fixture
def run(tmp_path):
    """Return a run's folder."""
    path = tmp_path / "run"
    path.mkdir()
    for name, content in contents().items():
        (path / name).write_bytes(content)
    return path


shared = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(shared, max_examples=20)
@given(file=st.sampled_from(FILES).flatmap(lambda name: st.tuples(st.just(name), damaged(name))))
def test_damaged_results(run, capsys, file):
    """No command raises anything: it succeeds, fails with the verdict, or says one sentence."""
    name, content = file
    (run / name).write_bytes(content)
    for words in COMMANDS:
        status = main([{"RUN": str(run), "OUT": str(run.parent / "out")}.get(word, word) for word in words])
        out, said = capsys.readouterr()
        assert "\x1b" not in out + said
        assert status in (0, 1) or (status == 2 and said.startswith("lab: ") and said.count("\n") == 1)
    (run / name).write_bytes(contents()[name])


@settings(shared, max_examples=20)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=20))
def test_points_of_any_values(run, changes):
    """The points of `layers` in a recording may have any values."""
    points = recording().events["layers"].copy()
    raw = points.view("u1")
    for place, value in changes:
        raw[int(place * len(raw))] = value
    Recording({"layers": points}, devices=recording().devices).save(run / "recording-1.npz")
    assert main(["report", str(run), "-o", str(run.parent / "out")]) in (0, 2)


def test_a_bomb(tmp_path):
    """A small file that unpacks to much memory is refused before it is unpacked."""
    bomb = tmp_path / "bomb.npz"
    np.savez_compressed(bomb, **{"events/layers": np.zeros(10**8, "u1"), "about": np.array("{}")})
    assert bomb.stat().st_size < 10**6
    with pytest.raises(LabError, match=r"bomb.npz wants 95 MB of memory, more than"):
        Recording.load(bomb)


@pytest.mark.parametrize("shape", ["(1000000000000000,)", "(-1,)", "(2, 2)", "('a',)"])
def test_shapes_that_lie(tmp_path, shape):
    """The shape in the head of an array is not trusted."""
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    recording().save(good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.startswith("events"):
                said = f"'shape': ({len(recording().events['layers'])},)".encode()
                assert said in content
                content = content.replace(said, f"'shape': {shape}".encode())
            target.writestr(name, content)
    with pytest.raises(LabError, match="is not a recording of this lab"):
        Recording.load(bad)


def test_a_line_without_an_end(tmp_path, capsys):
    """A line that is longer than any check ends the reading."""
    path = folder(tmp_path / "run")
    with (path / "checks.jsonl").open("wb") as file:
        file.write(b" " * (3 * LONGEST))
    assert main(["compare", str(path), str(path)]) == 2
    assert "has a line of more than 4 MB" in capsys.readouterr().err
