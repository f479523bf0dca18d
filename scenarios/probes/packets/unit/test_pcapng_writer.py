"""The pcapng writer: its files are read back with scapy."""

import errno
import io
import os
from pathlib import Path

import pytest
from scapy.utils import RawPcapNgReader

from lab.clock import wall_offset_ns
from lab.errors import LabError
from lab.probes.packets import pcapng_writer
from lab.probes.packets.pcapng_writer import Capture


def read_back(path):
    """Return time, length on the wire and bytes of each frame, and the names of the interfaces."""
    with RawPcapNgReader(str(path)) as reader:
        packets = list(reader)
    frames = [(meta.tshigh << 32 | meta.tslow, meta.wirelen, data) for data, meta in packets]
    return frames, {meta.ifname for _, meta in packets}


def test_frames_come_back(tmp_path):
    """Times to the nanosecond, lengths, the interface's name, and bytes of every length modulo 4 are read back."""
    path = tmp_path / "x.pcapng"
    written = [(1_795_276_984_831_836_000 + number, 1000 + number, bytes(range(14 + number))) for number in range(5)]
    with Capture(path, "eth0", 256) as capture:
        for time_ns, length, data in written:
            capture.frame(time_ns, data, length)
    frames, interfaces = read_back(path)
    assert frames == written
    assert interfaces == {b"eth0"}


def test_every_frame_is_in_the_file_at_once(tmp_path):
    """Writes are unbuffered, so a killed process loses no frame."""
    path = tmp_path / "x.pcapng"
    with Capture(path, "eth0", 256) as capture:
        capture.frame(1, b"x" * 60, 60)
        assert len(read_back(path)[0]) == 1


def test_a_capture_replaces_an_existing_file(tmp_path):
    """An existing file is overwritten, as by other capture tools."""
    path = tmp_path / "x.pcapng"
    path.write_bytes(b"old" * 10_000)
    with Capture(path, "eth0", 256):
        pass
    assert read_back(path)[0] == []


@pytest.mark.parametrize("name", ["nowhere/x.pcapng", "."])
def test_a_file_that_cannot_be_written(tmp_path, name):
    """The error names the file and asks for another one."""
    with pytest.raises(LabError, match=r"cannot be written .*: choose another file"):
        Capture(tmp_path / name, "eth0", 256)


def test_a_full_device():
    """A device without room for the head is refused at once, and the file is closed."""
    with pytest.raises(LabError, match="No space left on device"):
        Capture(Path("/dev/full"), "eth0", 256)
    assert "/dev/full" not in {
        os.fspath(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()
    }


def write_three_frames(path):
    with Capture(path, "eth0", 256) as capture:
        for number in range(3):
            capture.frame(number, bytes(30 + number), 60)


def ends_of_blocks(content):
    """Return the positions behind each block: its length is in its bytes 4 to 8 and in its last 4 (pcapng, 3.1)."""
    ends = [0]
    while ends[-1] < len(content):
        size = int.from_bytes(content[ends[-1] + 4 : ends[-1] + 8], "little")
        ends.append(ends[-1] + size)
        assert content[ends[-1] - 4 : ends[-1]] == content[ends[-2] + 4 : ends[-2] + 8]
    return ends


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    """Wherever it is full, also inside a write, the file ends with the last whole block."""
    write_three_frames(tmp_path / "whole.pcapng")
    whole = (tmp_path / "whole.pcapng").read_bytes()
    ends = ends_of_blocks(whole)
    assert len(ends) == 6  # two blocks before the frames

    class Limited(io.FileIO):
        """A file with little room."""

        def write(self, data):
            free = room - self.tell()
            if not free:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data[:free])

    path = tmp_path / "cut.pcapng"
    monkeypatch.setattr(pcapng_writer, "fresh", lambda *_, **__: Limited(path, "w"))
    for room in range(len(whole)):
        with pytest.raises(LabError, match="No space left"):
            write_three_frames(path)
        assert path.read_bytes() == whole[: max(end for end in ends if end <= room)]


def test_offset_of_the_wall_clock():
    """L3: two successive differences of the clocks are equal to a millisecond."""
    assert abs(wall_offset_ns() - wall_offset_ns()) < 1_000_000
