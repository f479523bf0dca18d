"""The reader of captures: every kind of file, and an error for each truncated or damaged one."""

import gzip
import struct
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.probes.packets.pcapng_writer import Capture
from lab.traffic.crafted.pcap_reader import captured

FRAMES = [bytes([number]) * (20 + number) for number in range(5)]
TIMES_NS = [1_700_000_000_000_001_000 + number * 1_000_000 for number in range(5)]


def pcap(order="<", *, nano=False, link_type=1):
    """Return a pcap file (draft-ietf-opsawg-pcap)."""
    magic, unit_ns = (0xA1B23C4D, 1) if nano else (0xA1B2C3D4, 1000)
    data = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link_type)
    for frame, time_ns in zip(FRAMES, TIMES_NS, strict=True):
        second, rest_ns = divmod(time_ns, 10**9)
        data += struct.pack(f"{order}IIII", second, rest_ns // unit_ns, len(frame), len(frame) + 3) + frame
    return data


@pytest.fixture
def pcapng(tmp_path):
    """Return a pcapng file."""
    with Capture(tmp_path / "written.pcapng", "eth0", 256) as capture:
        for frame, time_ns in zip(FRAMES, TIMES_NS, strict=True):
            capture.frame(time_ns, frame, len(frame) + 3)
    return (tmp_path / "written.pcapng").read_bytes()


def read(path: Path, data: bytes):
    """Read a file with this content; return the frames and the error after them."""
    path.write_bytes(data)
    frames, error = [], ""
    try:
        for frame in captured(path):
            frames.append(frame)  # noqa: PERF402 (frames before an error are needed)
    except LabError as why:
        error = str(why)
    return frames, error


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_pcap(tmp_path, order, nano, pack):
    """Frames, lengths and times are read in both byte orders and both resolutions, compressed or not."""
    frames, error = read(tmp_path / "file", pack(pcap(order, nano=nano)))
    assert not error
    assert [frame.data for frame in frames] == FRAMES
    assert [frame.length for frame in frames] == [len(frame) + 3 for frame in FRAMES]
    assert [frame.time_ns for frame in frames] == TIMES_NS


def test_pcapng(tmp_path, pcapng):
    """A file that the lab has written is read back."""
    frames, error = read(tmp_path / "file", pcapng)
    assert not error
    assert [(frame.data, frame.time_ns) for frame in frames] == list(zip(FRAMES, TIMES_NS, strict=True))


def test_without_times(tmp_path, pcapng):
    """A simple packet block has no time, so the time is None."""
    block = struct.pack("=III", 3, 16 + 20, 20) + FRAMES[0] + struct.pack("=I", 16 + 20)
    frames, error = read(tmp_path / "file", pcapng + block)
    assert (frames[-1].time_ns, frames[-1].data, error) == (None, FRAMES[0], "")


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_cut_off_anywhere(tmp_path, pcapng, kind):
    """A truncated file gives all frames before the cut, and an error unless the cut is between two frames."""
    whole = pcap() if kind == "pcap" else pcapng
    ends = [24] if kind == "pcap" else [28, 28 + 40]
    for frame in FRAMES:
        ends.append(ends[-1] + (16 + len(frame) if kind == "pcap" else 32 + len(frame) + -len(frame) % 4))
    assert ends[-1] == len(whole)
    first = ends[-1 - len(FRAMES)]
    for length in range(len(whole)):
        frames, error = read(tmp_path / "file", whole[:length])
        assert [frame.data for frame in frames] == FRAMES[: sum(first < end <= length for end in ends)]
        assert bool(error) == (length not in ends)
        if length > ends[0]:
            assert not error or f"is cut off or damaged after frame {len(frames)}: " in error


def test_cut_off_and_compressed(tmp_path):
    """A truncated compressed file gives the frames before the cut, and an error."""
    frames, error = read(tmp_path / "file", gzip.compress(pcap())[:-20])
    assert "is cut off or damaged" in error
    assert [frame.data for frame in frames] == FRAMES[: len(frames)]


WRONG = {
    "another link type": (pcap(link_type=101), "has frames of link type 101, not Ethernet (1)"),
    "no capture": (b"root:x:0:0:root:/root:/bin/bash\n", "is not a capture: give a pcap or pcapng file"),
    "nothing": (b"", "is not a capture"),
    "an impossible length": (pcap()[:24] + struct.pack("<IIII", 0, 0, 1 << 31, 60) + bytes(60), "after frame 0"),
    "an interface that was not described": (b"", "is cut off or damaged after frame 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(tmp_path, pcapng, name, capfd):
    """The error says what to do, and scapy prints nothing."""
    data, sentence = WRONG[name]
    if name.startswith("an interface"):
        data = pcapng[:28] + pcapng[28 + 40 :]
    frames, error = read(tmp_path / "file", data)
    assert not frames
    assert sentence in error
    assert capfd.readouterr() == ("", "")


def test_no_file(tmp_path):
    """A file that cannot be read is an error with its reason."""
    with pytest.raises(LabError, match=r"cannot be read \(No such file or directory\): give a pcap or pcapng file"):
        list(captured(tmp_path / "nowhere"))
    with pytest.raises(LabError, match=r"cannot be read \(Is a directory\)"):
        list(captured(tmp_path))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_block_of_any_length(tmp_path, pcapng, pack):
    """The length in a block is not trusted: a block above the limit is not read, though the file has so many bytes."""
    long = (1 << 24) + 16
    block = struct.pack("=II", 0x0BAD, long) + bytes(long - 12) + struct.pack("=I", long)
    frames, error = read(tmp_path / "file", pack(pcapng + block))
    assert [frame.data for frame in frames] == FRAMES
    assert "is cut off or damaged after frame 5" in error
