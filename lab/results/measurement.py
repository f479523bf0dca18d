"""A measurement of the bench: one row of `bench.jsonl`.

What lives here: the row, and the values derived from its raw samples. What does not: how anything is measured.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Annotated

import msgspec
import numpy as np

from lab.results import schema

FILE = "bench.jsonl"

_CONFIDENCE = 0.95
_RESAMPLES = 2000
_MANY = 1000


Condition = str | bool | float | Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""The value of a parameter under which something was measured."""


@dataclass(frozen=True)
class Goal:
    """A bound for the median: at least `value` if `least`, otherwise at most `value` (in the measurement's unit)."""

    least: bool
    value: float

    def met(self, median: float) -> bool:
        """Return true if a median reaches the goal."""
        return median >= self.value if self.least else median <= self.value


@dataclass(frozen=True)
class Measurement:
    """One quantity of one probe or peer, in all repetitions of a run.

    - `figure`: the chapter of the bench, for example `accuracy` or `kernel cost` (all are in lab/bench/chapters).
    - `tool`: the measured program, for example `lab states` or `libbpf-tools tcpstates`.
    - `samples`: the raw values in `unit`, one for each repetition. A ratio divides a repetition with the tool by the
      adjacent repetition without it.
    - `conditions`: the parameters, for example delay and connections.
    - `refused`: why the tool cannot run here; it has no samples then.
    """

    figure: str
    tool: str
    quantity: str
    unit: str
    samples: list[float] = field(default_factory=list)
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    goal: Goal | None = None
    refused: str | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The median of the samples; NaN if there are none."""
        return float(np.median(self.samples)) if self.samples else float("nan")

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the median (low, high), NaN without samples.

        Up to 1000 samples: the bootstrap percentile interval (Efron 1979), with a fixed seed. More samples: two order
        statistics by the normal approximation of the binomial distribution, which takes a thousandth of the time.
        """
        if not self.samples:
            return float("nan"), float("nan")
        if (count := len(self.samples)) > _MANY:
            ordered = np.sort(self.samples)
            reach = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2) * math.sqrt(count) / 2
            return float(ordered[math.floor(count / 2 - reach)]), float(ordered[math.ceil(count / 2 + reach)])
        drawn = np.random.default_rng(0).choice(np.array(self.samples), (_RESAMPLES, len(self.samples)))
        tail = 50 * (1 - _CONFIDENCE)
        low, high = np.percentile(np.median(drawn, axis=1), [tail, 100 - tail])
        return float(low), float(high)

    @property
    def conditions_text(self) -> str:
        """The conditions as text: `delay 20, cold yes`."""
        words = {True: "yes", False: "no"}
        return ", ".join(
            f"{name} {words[value] if isinstance(value, bool) else value}" for name, value in self.conditions.items()
        )

    @property
    def met(self) -> bool | None:
        """True if the median reaches the goal; None without a goal or without samples."""
        return self.goal.met(self.median) if self.goal and self.samples else None

    def to_json(self) -> str:
        """Return one line of JSON: the fields, and the derived values for readers that do not use this module."""
        derived = {"median": self.median, "interval": self.interval, "met": self.met} if self.samples else {}
        return json.dumps(asdict(self) | derived, ensure_ascii=False)


_DECODER = msgspec.json.Decoder(Measurement)


def read(folder: Path) -> list[Measurement]:
    """Read the measurements of a run; none without a file. Raises `LabError` if the file has another form."""
    path = folder / FILE
    if not path.exists():
        return []
    return schema.read(path, _DECODER.decode_lines, "run make bench again")
