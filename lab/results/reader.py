"""A finished run, read from its folder: environment, checks, measurements and recordings."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lab.arrays import Rows
from lab.ebpf import attach
from lab.errors import LabError
from lab.probes.layers.requests import REQUEST, requests
from lab.probes.layers.stages import Stages
from lab.results import measurement, schema, writer
from lab.results.check_columns import FILE, CheckColumns
from lab.results.measurement import Measurement
from lab.results.schema import About
from lab.traffic.demo.conversation import PORT


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run. `environment` is the content of its run.json, `about` the part that the lab uses.

    All other files are read on first use.
    """

    path: Path
    about: About
    environment: dict[str, Any]

    @classmethod
    def open(cls, path: Path | None = None) -> "RunFolder":
        """Open a run by the path or the name of its folder; None opens the newest run.

        Raises `LabError` if there is no such run.
        """
        if path is None:
            path = writer.parent() / writer.LATEST
            if not path.exists():
                raise LabError(f"there are no results in {path.parent} yet: run make demo, make test or make bench")
        elif not path.exists() and (writer.parent() / path).exists():
            path = writer.parent() / path
        path = path.resolve()
        if not (path / writer.RUN).is_file():
            raise LabError(f"{path} is no run's folder: give a folder in {writer.parent()}")
        about, environment = schema.read(path / writer.RUN, _about, f"give the folder of a run in {writer.parent()}")
        return cls(path, about, environment)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def kernel(self) -> str:
        """Release of the kernel, or `unknown`."""
        return self.about.kernel.release

    @property
    def place(self) -> str:
        """Where the run took place: kernel release, clock (default: real), and the mechanism if one was forced."""
        mechanism = [] if self.about.attach == attach.BEST else [self.about.attach]
        return ", ".join([self.kernel, f"{self.about.time} clock", *mechanism])

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


def _about(content: bytes) -> tuple[About, dict[str, Any]]:
    environment = msgspec.json.decode(content, type=dict[str, Any])
    return msgspec.convert(environment, About), environment
