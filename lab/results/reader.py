"""A finished run, read from its folder: environment, checks, measurements and recordings."""

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
    """The folder of a run. `about` is the content of its run.json; all other files are read on first use."""

    path: Path
    about: dict[str, Any]

    @classmethod
    def open(cls, path: Path | None = None) -> "RunFolder":
        """Open a run by the path or the name of its folder; None opens the newest run.

        Raises `LabError` if there is no such run.
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
                f"{path} is no run's folder, or its {writer.RUN} is broken: give a folder in {writer.parent()}"
            ) from error
        if not isinstance(about, dict):
            raise LabError(f"{path / writer.RUN} does not describe a run: give a folder in {writer.parent()}")
        return cls(path, about)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def kernel(self) -> str:
        """Release of the kernel, or `unknown`."""
        kernel = self.about.get("kernel")
        return str(kernel.get("release", "unknown")) if isinstance(kernel, dict) else "unknown"

    @property
    def place(self) -> str:
        """Where the run took place: kernel release, clock (default: real), and the mechanism if one was forced."""
        time, mechanism = self.about.get("time", clock.REAL), self.about.get("attach", attach.BEST)
        return ", ".join([self.kernel, f"{time} clock", *([] if mechanism == attach.BEST else [str(mechanism)])])

    @cached_property
    def checks(self) -> CheckColumns:
        """All checks. Raises `LabError` if the file has another form."""
        return CheckColumns.read(self.path / FILE)

    @cached_property
    def measurements(self) -> list[Measurement]:
        """All measurements of the bench. Raises `LabError` if the file has another form."""
        return measurement.read(self.path)

    @property
    def recordings(self) -> list[Path]:
        """Paths of the recordings, sorted by name."""
        return sorted(self.path.glob("recording*.npz"))

    def requests(self) -> Rows:
        """Return the requests of all recordings with their layers, in order of time within each recording.

        Raises `LabError` for a recording without the probe layers.
        """
        rows = [requests(Stages.load(path), PORT).rows for path in self.recordings]
        return np.concatenate([np.zeros(0, REQUEST), *rows])
