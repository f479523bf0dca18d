"""A run as OpenMetrics text, for Prometheus and other readers. Times are in seconds."""

from collections.abc import Iterable, Iterator

import numpy as np

from lab.results.check_columns import CheckColumns
from lab.results.measurement import Measurement
from lab.results.reader import RunFolder
from lab.results.sharpness import TIME, sharpness

_QUANTILES = (0.5, 0.9, 0.99, 1)

Labels = dict[str, str]
Sample = tuple[str, Labels, float]


def lines(run: RunFolder, *, checks: bool, measurements: bool) -> Iterator[str]:
    """Yield the lines of the text: a description of the run, then its checks, its measurements, or both."""
    about = {"run": run.name, "kernel": run.kernel, "place": run.place, "commit": str(run.about.commit)}
    yield from _family("lab_run", "info", "The run and where it ran.", [("_info", about, 1)])
    if checks:
        yield from _family("lab_checks", "gauge", "Checks, by verdict.", _verdicts(run.checks))
        yield from _family(
            "lab_error_seconds",
            "summary",
            "Absolute errors of times, against the best estimate of the truth.",
            _errors(run.checks),
        )
        yield from _family(
            "lab_bracket_width_seconds", "gauge", "Widths of the brackets of times.", _widths(run.checks)
        )
    if measurements:
        yield from _bench(run.measurements)
    yield "# EOF"


def _verdicts(columns: CheckColumns) -> Iterator[Sample]:
    for group, members in zip(columns.groups, columns.members(), strict=True):
        # Two quantities of the same name may have different units.
        labels = {"scenario": group.scenario, "probe": group.probe, "quantity": group.quantity, "unit": group.unit}
        inside, far = (int(columns.rows[name][members].sum()) for name in ("passed", "far"))
        for verdict, number in (("inside", inside), ("outside", len(members) - inside - far), ("far", far)):
            yield "", labels | {"verdict": verdict}, number


def _errors(columns: CheckColumns) -> Iterator[Sample]:
    for group, members in zip(columns.groups, columns.members(), strict=True):
        errors = columns.rows["error"][members]
        sizes = np.abs(errors[~np.isnan(errors)]) / 1e9
        if group.unit == "ns" and len(sizes):
            labels = {"scenario": group.scenario, "probe": group.probe, "quantity": group.quantity}
            for quantile, value in zip(_QUANTILES, np.quantile(sizes, _QUANTILES).tolist(), strict=True):
                yield "", labels | {"quantile": str(float(quantile))}, value
            yield "_count", labels, len(sizes)
            yield "_sum", labels, float(sizes.sum())


def _widths(columns: CheckColumns) -> Iterator[Sample]:
    for (group, unit), one in sharpness(columns, lambda group: group).items():
        if unit == TIME and one.sized:
            labels = {"scenario": group.scenario, "probe": group.probe, "quantity": group.quantity}
            for quantile, width in (("0.5", one.p50), ("0.9", one.p90)):
                yield "", labels | {"quantile": quantile}, width / 1e9


def _bench(measurements: list[Measurement]) -> Iterator[str]:
    """Yield the families of the bench. The unit is a label, because one family holds measurements in all units."""
    named = [
        (
            row,
            {
                "figure": row.figure,
                "tool": row.tool,
                "quantity": row.quantity,
                "unit": row.unit,
                "conditions": row.conditions_text,
            },
        )
        for row in measurements
    ]
    yield from _family(
        "lab_median",
        "gauge",
        "Medians of the bench.",
        [("", labels, row.median) for row, labels in named if row.samples],
    )
    yield from _family(
        "lab_interval",
        "gauge",
        "The 95 % intervals of the medians.",
        [
            ("", labels | {"end": end}, value)
            for row, labels in named
            if row.samples
            for end, value in zip(("low", "high"), row.interval, strict=True)
        ],
    )
    yield from _family(
        "lab_goal",
        "gauge",
        "Goals for the medians.",
        [
            ("", labels | {"reach": "at least" if row.goal.least else "at most"}, row.goal.value)
            for row, labels in named
            if row.goal
        ],
    )
    yield from _family(
        "lab_goal_met",
        "gauge",
        "Whether the median reaches its goal.",
        [("", labels, int(row.met)) for row, labels in named if row.met is not None],
    )
    yield from _family(
        "lab_refused",
        "gauge",
        "Tools that cannot run here.",
        [("", labels | {"reason": row.refused}, 1) for row, labels in named if row.refused is not None],
    )


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    if name.endswith("_seconds"):
        yield f"# UNIT {name} seconds"
    yield f"# HELP {name} {text}"
    for suffix, labels, value in samples:
        pairs = ",".join(f'{label}="{_escaped(some)}"' for label, some in labels.items())
        yield f"{name}{suffix}{{{pairs}}} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
