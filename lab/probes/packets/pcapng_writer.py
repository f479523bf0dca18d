"""A writer of pcapng files with nanosecond timestamps.

Nanoseconds need the option if_tsresol in the interface block. Format: draft-ietf-opsawg-pcapng, sections 4.1 (section
header), 4.2 (interface description) and 4.3 (enhanced packet).
"""

import struct
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.errors import LabError
from lab.output.file import fresh

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_UNKNOWN_LENGTH = -1
_ETHERNET, _IP = 1, 101  # LINKTYPE_ETHERNET, LINKTYPE_RAW
_IF_NAME, _IF_TSRESOL, _END = 2, 9, 0
_NANOSECONDS = b"\x09"


class Capture:
    """A pcapng file with the frames of one interface. Without `ethernet` headers they begin with IP.

    Writes are unbuffered, so each frame is in the file at once.

    Raises `LabError` if the file cannot be written: when it is opened, or later if the disk is full. A full disk leaves
    a file that ends with the last complete frame.
    """

    def __init__(self, path: Path, ifname: str, snaplen: int, *, ethernet: bool = True) -> None:
        self._path, self._complete_bytes = path, 0
        self._file = fresh(path, "wb", private=True, buffering=0)
        try:
            self._write(_block(_SECTION, struct.pack("=IHHq", _BYTE_ORDER, 1, 0, _UNKNOWN_LENGTH)))
            about = _option(_IF_NAME, ifname.encode()) + _option(_IF_TSRESOL, _NANOSECONDS) + _option(_END, b"")
            self._write(_block(_INTERFACE, struct.pack("=HHI", _ETHERNET if ethernet else _IP, 0, snaplen) + about))
        except LabError:
            self.close()
            raise

    def frame(self, wall_ns: int, beginning: bytes, length: int) -> None:
        """Write the `beginning` of a frame of `length` bytes; `wall_ns` is Unix time in nanoseconds."""
        about = struct.pack("=IIIII", 0, wall_ns >> 32, wall_ns & 0xFFFFFFFF, len(beginning), length)
        self._write(_block(_PACKET, about + _padded(beginning)))

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # some file systems report the full disk a second time
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, block: bytes) -> None:
        rest = memoryview(block)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with suppress(OSError):  # a pipe cannot be truncated
                self._file.truncate(self._complete_bytes)
            raise self._unwritable(error) from error
        self._complete_bytes += len(block)

    def _unwritable(self, error: OSError) -> LabError:
        return LabError(f"the capture cannot be written to {self._path} ({error.strerror}): choose another file")


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("=II", kind, size) + body + struct.pack("=I", size)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
