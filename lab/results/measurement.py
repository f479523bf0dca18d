"""One figure of the bench: what was measured, of whom, as a distribution; a row of `bench.jsonl`.

What lives here: the row and what is derived from its raw samples. What does not: how anything is measured.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any, Self

import numpy as np

from lab.errors import LabError

FILE = "bench.jsonl"

_CONFIDENCE = 0.95
_RESAMPLES = 2000
_MANY = 1000


@dataclass(frozen=True)
class Goal:
    """What a figure's median must reach: at least, or at most, `value` (in the measurement's unit)."""

    least: bool
    value: float

    def met(self, median: float) -> bool:
        """Tell whether a median reaches it."""
        return median >= self.value if self.least else median <= self.value


@dataclass(frozen=True)
class Measurement:
    """One quantity of one probe or peer, in all repetitions of a run.

    `figure` is the chapter of the bench (`accuracy`, `kernel cost`: lab/bench/chapters has all), `tool` who was measured
    (`lab states`, `libbpf-tools tcpstates`), `conditions` what was set (delay, connections), `samples` the raw values, one for each
    repetition, in `unit`. `refused` is why a tool cannot run here: it has no samples then. Ratios are taken pair by pair, each
    repetition by the one without that stands beside it.
    """

    figure: str
    tool: str
    quantity: str
    unit: str
    samples: list[float] = field(default_factory=list)
    conditions: dict[str, Any] = field(default_factory=dict)
    goal: Goal | None = None
    refused: str | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of the samples; NaN when there are none."""
        return float(np.median(self.samples)) if self.samples else float("nan")

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the median: percentiles of resampled medians (Efron 1979), always the same ones.

        Of many samples it is read off their order, which says the same in a thousandth of the time.
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
        """What was set, in words."""
        words = {True: "yes", False: "no"}
        return ", ".join(
            f"{name} {words[value] if isinstance(value, bool) else value}" for name, value in self.conditions.items()
        )

    @property
    def met(self) -> bool | None:
        """Tell whether the goal is reached; None where there is none, or nothing was measured."""
        return self.goal.met(self.median) if self.goal and self.samples else None

    def to_json(self) -> str:
        """One line of JSON: the fields, and what is derived from the samples for whoever reads without this module."""
        derived = {"median": self.median, "interval": self.interval, "met": self.met} if self.samples else {}
        return json.dumps(asdict(self) | derived, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read a line that `to_json` has written."""
        fields = json.loads(line)
        known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        return cls(**known | {"goal": Goal(**fields["goal"]) if fields.get("goal") else None})


def read(folder: Path) -> list[Measurement]:
    """Read a run's measurements; none where it has no bench. Raises `LabError` when the file is not one of these."""
    path = folder / FILE
    if not path.exists():
        return []
    try:
        return [Measurement.from_json(line) for line in path.read_text().splitlines()]
    except (ValueError, TypeError, KeyError) as error:
        raise LabError(f"{path} holds no measurements of this version: run make bench again") from error
