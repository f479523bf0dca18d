"""A run that is over, read from its folder: what it ran on, its checks, measurements and recordings."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lab import clock
from lab.arrays import Rows
from lab.ebpf import attach
from lab.errors import LabError
from lab.probes.layers.requests import REQUEST, requests
from lab.probes.layers.stages import Stages
from lab.results import measurement, writer
from lab.results.check_columns import FILE, CheckColumns
from lab.results.measurement import Measurement
from lab.traffic.demo.conversation import PORT

LATEST = "latest"


@dataclass(frozen=True)
class RunFolder:
    """A folder of results, and run.json of it (`about`). The rest is read when it is asked for."""

    path: Path
    about: dict[str, Any]

    @classmethod
    def open(cls, path: Path | None = None) -> "RunFolder":
        """Find a run by its folder, or by its folder's name in the results; the newest where none is named.

        Raises `LabError` when there is none.
        """
        if path is None:
            path = writer.parent() / LATEST
            if not path.exists():
                raise LabError(f"there are no results in {path.parent} yet: run make demo, make test or make bench")
        elif not path.exists() and (writer.parent() / path).exists():
            path = writer.parent() / path
        path = path.resolve()
        try:
            about = json.loads((path / writer.RUN).read_text())
        except (OSError, ValueError) as error:
            raise LabError(
                f"{path} is no run's folder, or {writer.RUN} in it is broken: name a folder of {writer.parent()}"
            ) from error
        if not isinstance(about, dict):
            raise LabError(f"{path / writer.RUN} does not tell of a run: name a folder of {writer.parent()}")
        return cls(path, about)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def kernel(self) -> str:
        """The kernel's release."""
        kernel = self.about.get("kernel")
        return str(kernel.get("release", "unknown")) if isinstance(kernel, dict) else "unknown"

    @property
    def place(self) -> str:
        """Where it ran: kernel, time, and the way of attaching where one was asked for. A run that does not say had real time."""
        time, mechanism = self.about.get("time", clock.REAL), self.about.get("attach", attach.BEST)
        return ", ".join([self.kernel, f"{time} clock", *([] if mechanism == attach.BEST else [str(mechanism)])])

    @cached_property
    def checks(self) -> CheckColumns:
        """Every check. Raises `LabError` when the file is not one of these."""
        return CheckColumns.read(self.path / FILE)

    @cached_property
    def measurements(self) -> list[Measurement]:
        """Every measurement of the bench. Raises `LabError` when the file is not one of these."""
        return measurement.read(self.path)

    @property
    def recordings(self) -> list[Path]:
        """The files of its recordings."""
        return sorted(self.path.glob("recording*.npz"))

    def requests(self) -> Rows:
        """Return the requests of all recordings, with their layers, in order of time. Raises `LabError` for a file that has none."""
        rows = [requests(Stages.load(path), PORT).rows for path in self.recordings]
        return np.concatenate([np.zeros(0, REQUEST), *rows])
