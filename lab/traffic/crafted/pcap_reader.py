"""Reading captures, pcap and pcapng, also compressed by gzip: frame by frame, and never less than there is without saying so."""

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
_LARGEST = 1 << 18  # bytes of a frame, beyond all that tools for captures write
_SECOND = 10**9

conf.warning_threshold = (
    0  # scapy keeps quiet about what it has complained of before, which is no reason to overlook it
)


class Captured(NamedTuple):
    """A frame of a capture: what there is of it, its length on the wire, and its time in nanoseconds, None if it has none."""

    data: bytes
    length: int
    time_ns: int | None


def captured(path: Path) -> Iterator[Captured]:
    """Yield the frames of a capture in its order, as they are read.

    Raises `LabError` when there is no such file or it is no capture, and behind the last good frame when the file is cut off or
    damaged, or has frames of another kind than Ethernet's.
    """
    with _complaints() as complaints, _opened(path) as file:
        try:
            frames, number = _frames(RawPcapNgReader(file)), 0  # it tries pcap when it is that
        except (OSError, Scapy_Exception, EOFError) as error:
            raise LabError(f"{path} is no capture: give a pcap or pcapng file") from error
        complaints.clear()  # of a file of the one kind that was taken for the other
        while True:
            try:
                kind, frame = next(frames, (None, None))
            except (EOFError, OSError, Scapy_Exception, ValueError, zlib.error) as error:
                complaints.append(str(error))
                frame = None
            if complaints:
                raise LabError(
                    f"{path} is cut off or damaged behind frame {number}: capture it again, or cut it off there"
                )
            if frame is None:
                return
            if kind != _ETHERNET:
                raise LabError(
                    f"{path} has frames of link type {kind}, not of Ethernet (1): capture at an interface that carries those"
                )
            number += 1
            yield frame


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise LabError(f"{path} cannot be read ({error.strerror}): give a pcap or pcapng file") from error


def _frames(reader: Any) -> Iterator[tuple[int, Captured]]:
    """Yield each frame with its link type; raises whatever the reader raises for a file that ends within a frame.

    Not by the reader's own iteration, which takes every mishap for the end of the file.
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
def _complaints() -> Iterator[list[str]]:
    """Collect what scapy complains of, instead of having it printed."""
    said: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler, propagate = Collect(logging.WARNING), log_runtime.propagate
    log_runtime.addHandler(handler)
    log_runtime.propagate = False
    try:
        yield said
    finally:
        log_runtime.removeHandler(handler)
        log_runtime.propagate = propagate
