"""A recording survives its file, or loading it fails with a clear error message."""

import io
import json

import numpy as np
import pytest
from support.made.states import SERVER, change, changes

from lab.errors import EventsLost, LabError
from lab.recording.recording import SCHEMA, Recording

EVENTS = changes(change(5, "CLOSE -> SYN_SENT", tgid=42, comm="client"), change(9, "LISTEN -> SYN_RECV", SERVER, 0xB0))
NOTHING = np.zeros(0, [("time_ns", "u8")])
TOTALS = np.array([(7, 1 << 40)], [("key", "u4"), ("count", "u8")])
RECORDING = Recording(
    {"states": EVENTS, "rtt": NOTHING},
    {"states": 3},
    {"states": ["a", "b"]},
    totals={"rtt": TOTALS},
    devices={101: ("eth0", 4026531840)},
)


def timed(*times_ns: int) -> np.ndarray:
    return np.array([(time_ns,) for time_ns in times_ns], [("time_ns", "u8")])


@pytest.fixture
def path(tmp_path):
    """Save a recording, and return the file's path."""
    path = tmp_path / "recording"
    RECORDING.save(path)
    return path


def rewrite(path, **members) -> None:
    with path.open("wb") as file:
        np.savez(file, **members)


def test_a_saved_recording_is_loaded(path):
    """All events with their dtypes, counts, attach points, totals and devices survive the file."""
    loaded = Recording.load(path)
    assert loaded.events.keys() == RECORDING.events.keys()
    assert all((loaded.events[name] == events).all() for name, events in RECORDING.events.items())
    assert all(loaded.events[name].dtype.names == events.dtype.names for name, events in RECORDING.events.items())
    assert (loaded.lost, loaded.attach_points) == (RECORDING.lost, RECORDING.attach_points)
    assert loaded.totals["rtt"].tolist() == TOTALS.tolist()
    assert loaded.devices == RECORDING.devices


def test_the_file_has_the_name_that_was_asked_for(path):
    """`save` adds no suffix to the name and leaves nothing else in the folder."""
    assert [file.name for file in path.parent.iterdir()] == ["recording"]


def test_all_probes_merge_into_one_order():
    """`merged` sorts the events of all probes by kernel time, with probe and row; equal times keep their order."""
    merged = Recording({"a": timed(1, 5, 9), "b": timed(2, 5), "c": timed()}).merged()
    assert merged.tolist() == [(1, 0, 0), (2, 1, 0), (5, 0, 1), (5, 1, 1), (9, 0, 2)]
    same = Recording({"a": timed(*[5, 6] * 50)}).merged()
    assert same["row"].tolist() == [*range(0, 100, 2), *range(1, 100, 2)]


def test_nothing_merges_into_nothing():
    """A recording without probes merges into no rows."""
    assert len(Recording({}).merged()) == 0


def test_a_complete_recording_is_accepted():
    """A lost count of 0 is not an error."""
    Recording({}, {"states": 0}).require_complete()


def test_lost_events_are_an_error():
    """The error names each probe that lost events with the number, and no other probe."""
    with pytest.raises(EventsLost, match=r"^the recording lost events \(3 of states, 1 of rtt\): ") as caught:
        Recording({}, {"states": 3, "qdisc": 0, "rtt": 1}).require_complete()
    assert caught.value.lost == {"states": 3, "rtt": 1}


def test_another_schema_version_is_refused(path):
    """The error names the file's version and the supported one."""
    rewrite(path, about=np.array(json.dumps({"schema": SCHEMA + 1, "lost": {}, "attach_points": {}})))
    with pytest.raises(LabError, match=f"schema version {SCHEMA + 1}, this lab reads {SCHEMA}"):
        Recording.load(path)


@pytest.mark.parametrize("about", ["{}", "[]", "3", "not JSON", json.dumps({"schema": SCHEMA})])
def test_an_archive_with_another_description_is_refused(path, about):
    """Archives of other programs are not taken for a recording."""
    rewrite(path, about=np.array(about))
    with pytest.raises(LabError, match="not a recording"):
        Recording.load(path)


def test_an_archive_without_a_description_is_refused(path):
    """An archive without the array `about` is not taken for a recording."""
    rewrite(path, numbers=np.arange(3))
    with pytest.raises(LabError, match="not a recording"):
        Recording.load(path)


@pytest.mark.parametrize("size", [0, 1, 30, 100, -100, -1])
def test_a_truncated_file_is_refused(path, size):
    """A file that ends at any position has the same error message."""
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(LabError, match="not a recording"):
        Recording.load(path)


def test_a_damaged_file_is_refused(path):
    """Events with changed bytes are not returned."""
    data = bytearray(path.read_bytes())
    place = data.index(b"events/states.npy") + 60
    data[place : place + 20] = bytes(byte ^ 0xFF for byte in data[place : place + 20])
    path.write_bytes(data)
    with pytest.raises(LabError, match="not a recording"):
        Recording.load(path)


def one_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(3))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"hello, this is text\n", b"\x7fELF" + bytes(100), one_array()])
def test_another_kind_of_file_is_refused(path, content):
    """A text, an ELF file and a single array are not taken for a recording."""
    path.write_bytes(content)
    with pytest.raises(LabError, match="not a recording"):
        Recording.load(path)


def test_a_missing_file_is_named(tmp_path):
    """The error names the file and the reason."""
    with pytest.raises(LabError, match="nowhere cannot be read"):
        Recording.load(tmp_path / "nowhere")


def test_a_folder_is_no_recording(tmp_path):
    """The path of a folder is an error too."""
    with pytest.raises(LabError, match="cannot be read"):
        Recording.load(tmp_path)


@pytest.mark.parametrize("where", ["", "missing/recording"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, where):
    """For a folder, or a path in a missing folder, the error names the path and the remedy."""
    with pytest.raises(LabError, match=f"{tmp_path / where} cannot be written .*: choose another file"):
        RECORDING.save(tmp_path / where)
