"""A reader of pcap and pcapng files, also compressed by gzip. A truncated or damaged file is an error."""

import gzip
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from scapy.config import conf
from scapy.error import Scapy_Exception, log_runtime
from scapy.utils import RawPcapNgReader

from lab.errors import LabError

_ETHERNET = 1  # LINKTYPE_ETHERNET
_LARGEST = 1 << 18  # bytes of a frame; more than any capture tool writes
_LARGEST_BLOCK = 1 << 24  # bytes; the longest are comments and lists of names
_GZIP = b"\x1f\x8b"
_SECOND = 10**9

conf.warning_threshold = 0  # scapy suppresses repeated warnings by default, and each one is an error here


class Captured(NamedTuple):
    """A frame of a capture: the captured bytes, the length on the wire, and the time in nanoseconds or None."""

    data: bytes
    length: int
    time_ns: int | None


def captured(path: Path) -> Iterator[Captured]:
    """Yield the frames of a capture in the order of the file, as they are read.

    Raises `LabError` if the file cannot be read or is not a capture. Raises it after the last good frame if the file is
    cut off or damaged, or if its next frame is not an Ethernet frame.
    """
    with _warnings() as warnings, _opened(path) as file:
        try:
            frames, number = _frames(RawPcapNgReader(file)), 0  # scapy returns a pcap reader for a pcap file
        except (OSError, Scapy_Exception, EOFError) as error:
            raise LabError(f"{path} is not a capture: give a pcap or pcapng file") from error
        warnings.clear()  # from the detection of the file's format
        while True:
            try:
                kind, frame = next(frames, (None, None))
            except (EOFError, OSError, Scapy_Exception, ValueError, zlib.error) as error:
                warnings.append(str(error))
                frame = None
            if warnings:
                raise LabError(
                    f"{path} is cut off or damaged after frame {number}: capture it again, or cut it off there"
                )
            if frame is None:
                return
            if kind != _ETHERNET:
                raise LabError(
                    f"{path} has frames of link type {kind}, not Ethernet (1): capture on an Ethernet interface"
                )
            number += 1
            yield frame


class _Limited:
    """A file that refuses to read more at once than a block of a capture may have: the length in the block is not trusted."""

    def __init__(self, file: Any) -> None:
        self._file, self.peek, self.close = file, file.peek, file.close

    def read(self, size: int) -> bytes:
        if size > _LARGEST_BLOCK:
            raise Scapy_Exception(f"a block has {size:,} bytes")
        content: bytes = self._file.read(size)
        return content


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as file:
            unpacked: Any = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file
            yield _Limited(unpacked)
    except OSError as error:
        raise LabError(f"{path} cannot be read ({error.strerror or error}): give a pcap or pcapng file") from error


def _frames(reader: Any) -> Iterator[tuple[int, Captured]]:
    """Yield each frame with its link type. Raises the reader's exception if the file ends inside a frame.

    The iteration of scapy's reader is not used: it treats every error as the end of the file.
    """
    is_ng = isinstance(reader, RawPcapNgReader)
    while reader.f.peek(1):
        if not is_ng:
            data, about = reader._read_packet(_LARGEST)  # noqa: SLF001 (as above)
            fraction_ns = about.usec if reader.nano else about.usec * 1000
            yield reader.linktype, Captured(data, about.wirelen, about.sec * _SECOND + fraction_ns)
        elif block := reader._read_block(_LARGEST):  # noqa: SLF001 (as above)
            data, about = block
            units = None if about.tshigh is None else about.tshigh << 32 | about.tslow
            time_ns = None if units is None else units * _SECOND // about.tsresol
            yield about.linktype, Captured(data, about.wirelen, time_ns)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect scapy's warnings instead of printing them."""
    collected: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            collected.append(record.getMessage())

    handler, propagate = Collect(logging.WARNING), log_runtime.propagate
    log_runtime.addHandler(handler)
    log_runtime.propagate = False
    try:
        yield collected
    finally:
        log_runtime.removeHandler(handler)
        log_runtime.propagate = propagate
