"""A recording: events and totals by probe, and how many are missing.

What lives here: the data and its file format. What does not: the kernel (`recorder.py`), and the meaning of events.
"""

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from lab.arrays import Events, Rows, in_order
from lab.clock import CLOCK
from lab.errors import EventsLost, EventsWithheld, LabError
from lab.output.file import replacing

SCHEMA = 3
_ARRAYS = ("events", "totals")
_ABOUT = ("lost", "attach_points", "withheld")


# What NumPy, zipfile and json raise for a file that is not what it says.
_DAMAGED = (
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    BadZipFile,
    NotImplementedError,
    zlib.error,
    MemoryError,
    RecursionError,
    SyntaxError,
    TokenError,
)
_MOST_UNPACKED = 1 << 26
_MOST_RATIO = 100
"""A file whose arrays have more than `_MOST_UNPACKED` bytes may unpack to at most this many times its own size.

Events never compress as well: the times of two of them differ.
"""


@dataclass(frozen=True)
class Recording:
    """Events by probe, each array sorted by `time_ns` (integer nanoseconds on `CLOCK_MONOTONIC`).

    - `lost`: by probe, the number of events without room.
    - `attach_points`: by probe, the names of its attach points.
    - `withheld`: by probe, the number of events for which the kernel did not run its program, counted by the audit
      (`audit.py`) or by the kernel because a program was already running on that CPU.
    - `totals`: by probe, what its program added up in the kernel, one row for each key.
    - `devices`: by ifindex, the name of the interface and the inode number of its network namespace.
    """

    events: dict[str, Events]
    lost: dict[str, int] = field(default_factory=dict)
    attach_points: dict[str, list[str]] = field(default_factory=dict)
    withheld: dict[str, int] = field(default_factory=dict)
    totals: dict[str, Events] = field(default_factory=dict)
    devices: dict[int, tuple[str, int]] = field(default_factory=dict)

    def missing(self, probe: str) -> int:
        """Return the number of a probe's events that are lost or withheld."""
        return self.lost.get(probe, 0) + self.withheld.get(probe, 0)

    def require_complete(self) -> None:
        """Raise `EventsLost` when a probe lost events, `EventsWithheld` when the kernel withheld events from it."""
        for counts, error in ((self.lost, EventsLost), (self.withheld, EventsWithheld)):
            if some := {probe: count for probe, count in counts.items() if count}:
                raise error(some)

    def merged(self) -> Rows:
        """Return the events of all probes sorted by kernel time: rows of (time_ns, probe, row).

        `probe` is the index of the probe's name in `events`, `row` the index of the event in that probe's array.
        The sort is stable: events of one nanosecond keep the order of the probes, and of their probe's array.
        """
        index = np.dtype([("time_ns", "u8"), ("probe", "u2"), ("row", "u4")])
        parts = []
        for number, events in enumerate(self.events.values()):
            part = np.empty(len(events), index)
            part["time_ns"], part["probe"], part["row"] = events["time_ns"], number, np.arange(len(events))
            parts.append(part)
        everything = np.concatenate(parts) if parts else np.empty(0, index)
        return in_order(everything)

    def save(self, path: Path) -> None:
        """Write the recording to one `.npz` file that only its owner may read. Raises `LabError` when the file cannot be written."""
        about = {"schema": SCHEMA, "clock": CLOCK, "devices": list(self.devices.items())}
        about |= {name: getattr(self, name) for name in _ABOUT}
        arrays: dict[str, Any] = {
            f"{kind}/{probe}": rows for kind in _ARRAYS for probe, rows in getattr(self, kind).items()
        }
        arrays["about"] = np.array(json.dumps(about))
        with replacing(path, "wb", private=True) as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Recording":
        """Read a recording that `save` wrote. Raises `LabError` for another kind of file or another schema version."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                _require_ratio(path, archive.zip)
                about = json.loads(str(archive["about"]))
                if about["schema"] != SCHEMA:
                    raise LabError(
                        f"{path} has schema version {about['schema']}, this lab reads {SCHEMA}: record it again"
                    )
                arrays: dict[str, dict[str, Events]] = {kind: {} for kind in _ARRAYS}
                for name in archive.files:
                    kind, _, probe = name.partition("/")
                    if kind in arrays:
                        arrays[kind][probe] = _rows(archive[name])
                devices = {index: (ifname, inode) for index, (ifname, inode) in about["devices"]}
                about = {name: about[name] for name in _ABOUT}
                return cls(events=arrays["events"], totals=arrays["totals"], devices=devices, **about)
        except OSError as error:
            raise LabError(
                f"{path} cannot be read ({error.strerror or error}): give the file of a recording"
            ) from error
        except _DAMAGED as error:
            raise LabError(f"{path} is not a recording of this lab: record it again") from error


def _rows(found: npt.NDArray[Any]) -> Events:
    """Return an array if it has the form of events or totals. Raises `ValueError` if not."""
    if found.ndim != 1 or found.dtype.names is None:
        raise ValueError(found.dtype)
    return found


def _require_ratio(path: Path, archive: ZipFile) -> None:
    """Raise `LabError` for a file that says that it unpacks to more than events can."""
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max(_MOST_UNPACKED, _MOST_RATIO * path.stat().st_size):
        raise LabError(
            f"{path} wants {unpacked >> 20:,} MB of memory, more than a recording of its size: record it again"
        )
