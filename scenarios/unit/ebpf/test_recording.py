"""A recording comes back from its file as it was, or with one sentence that says why not."""

import io
import json

import numpy as np
import pytest
from support.made.states import SERVER, change, changes

from lab.ebpf.recording import SCHEMA, Recording
from lab.errors import EventsLost, LabError

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
    """Save a recording."""
    path = tmp_path / "recording"
    RECORDING.save(path)
    return path


def rewrite(path, **members) -> None:
    with path.open("wb") as file:
        np.savez(file, **members)


def test_what_is_saved_is_loaded(path):
    """Every event, count and attach point survives the file, in the events' own type."""
    loaded = Recording.load(path)
    assert loaded.events.keys() == RECORDING.events.keys()
    assert all((loaded.events[name] == events).all() for name, events in RECORDING.events.items())
    assert all(loaded.events[name].dtype.names == events.dtype.names for name, events in RECORDING.events.items())
    assert (loaded.lost, loaded.attach_points) == (RECORDING.lost, RECORDING.attach_points)
    assert loaded.totals["rtt"].tolist() == TOTALS.tolist()
    assert loaded.devices == RECORDING.devices


def test_the_file_has_the_name_that_was_asked_for(path):
    """No ending is added to the name, and nothing else is left in the folder."""
    assert [file.name for file in path.parent.iterdir()] == ["recording"]


def test_all_probes_merge_into_one_order():
    """Events of several probes are listed by kernel time, each with its probe and place; ties keep their order."""
    merged = Recording({"a": timed(1, 5, 9), "b": timed(2, 5), "c": timed()}).merged()
    assert merged.tolist() == [(1, 0, 0), (2, 1, 0), (5, 0, 1), (5, 1, 1), (9, 0, 2)]
    same = Recording({"a": timed(*[5, 6] * 50)}).merged()
    assert same["row"].tolist() == [*range(0, 100, 2), *range(1, 100, 2)]


def test_nothing_merges_into_nothing():
    """A recording without probes has no events."""
    assert len(Recording({}).merged()) == 0


def test_a_complete_recording_is_accepted():
    """A count of zero is no loss."""
    Recording({}, {"states": 0}).require_complete()


def test_a_loss_is_an_error_that_counts():
    """An incomplete recording names each probe that lost events, and how many; the others are not named."""
    with pytest.raises(EventsLost, match=r"^the recording lost events \(3 of states, 1 of rtt\): ") as caught:
        Recording({}, {"states": 3, "qdisc": 0, "rtt": 1}).require_complete()
    assert caught.value.lost == {"states": 3, "rtt": 1}


def test_another_schema_version_is_refused(path):
    """A file of another version says which one it has and which one is read."""
    rewrite(path, about=np.array(json.dumps({"schema": SCHEMA + 1, "lost": {}, "attach_points": {}})))
    with pytest.raises(LabError, match=f"schema version {SCHEMA + 1}, this lab reads {SCHEMA}"):
        Recording.load(path)


@pytest.mark.parametrize("about", ["{}", "[]", "3", "not JSON", json.dumps({"schema": SCHEMA})])
def test_an_archive_that_says_nothing_of_a_recording_is_refused(path, about):
    """Arrays of somebody else's are not taken for a recording."""
    rewrite(path, about=np.array(about))
    with pytest.raises(LabError, match="not a recording"):
        Recording.load(path)


def test_an_archive_without_a_description_is_refused(path):
    """An archive that lacks what `save` writes is not taken for a recording."""
    rewrite(path, numbers=np.arange(3))
    with pytest.raises(LabError, match="not a recording"):
        Recording.load(path)


@pytest.mark.parametrize("size", [0, 1, 30, 100, -100, -1])
def test_a_truncated_file_is_refused(path, size):
    """However much of the file is missing, the answer is one sentence."""
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(LabError, match="not a recording"):
        Recording.load(path)


def test_a_damaged_file_is_refused(path):
    """Events whose bytes have changed on the disk are not handed out."""
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
    """A text, a program or a single array is not taken for a recording."""
    path.write_bytes(content)
    with pytest.raises(LabError, match="not a recording"):
        Recording.load(path)


def test_a_missing_file_is_named(tmp_path):
    """The sentence says which file, and why it cannot be read."""
    with pytest.raises(LabError, match="nowhere cannot be read"):
        Recording.load(tmp_path / "nowhere")


def test_a_folder_is_no_recording(tmp_path):
    """The sentence says so when the path is a folder's."""
    with pytest.raises(LabError, match="cannot be read"):
        Recording.load(tmp_path)


@pytest.mark.parametrize("where", ["", "missing/recording"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, where):
    """A folder, or a path into one that does not exist, is answered with the path and what to do."""
    with pytest.raises(LabError, match=f"cannot be written to {tmp_path / where} .*: choose another file"):
        RECORDING.save(tmp_path / where)
