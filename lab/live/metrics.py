"""Metrics of a live tool for a Prometheus server: what is counted of its rows, and the server that is asked for it.

A probe describes its metrics in `lab/probes/<name>/metrics.py`: `families(args)` returns a list of `Counter` and
`Histogram`. What lives here: counting, the limit of series, HTTP. What does not: which metrics a tool has.

Rows are counted by NumPy, a batch at a time. The objects of `prometheus_client` are made when the server asks: one call
of Python for each event would be too slow.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from lab.arrays import UNKNOWN, Index, Integers, Mask, Rows
from lab.errors import LabError, require_resources
from lab.live.account import Account
from lab.tcp import endpoint
from lab.units import SECOND

MOST_SERIES = 5000
"""Limit of the time series of a family: one for each label set, and of a histogram one for each bucket of each."""

OTHER = "other"
"""Value of all labels of the series that counts the rows beyond the limit."""

_STEPS = (10, 25, 50)  # in tenths: 1, 2.5 and 5 of each decade


def decades(first_ns: int, last_ns: int) -> list[int]:
    """Return the bounds of a histogram of times: 1, 2.5 and 5 times each power of ten, in nanoseconds."""
    powers = (10**power for power in range(19))
    return [bound for power in powers for step in _STEPS if first_ns <= (bound := step * power // 10) <= last_ns]


@dataclass(frozen=True)
class Label:
    """A label: `values` returns an integer, or an array of bytes, for each row, and `text` the text of one of them."""

    values: Callable[[Rows], npt.NDArray[Any]]
    text: Callable[[Any], str]


def field(name: str, text: Callable[[Any], str]) -> Label:
    """Return a label whose values are a field of the rows."""
    return Label(itemgetter(name), text)


def fields(names: Sequence[str], text: Callable[[Any], str]) -> Label:
    """Return a label whose values are several fields of the rows; `text` gets a structured scalar."""

    def values(rows: Rows) -> Rows:
        parts = np.zeros(len(rows), [(name, rows.dtype[name]) for name in names])
        for name in names:
            parts[name] = rows[name]
        return parts

    return Label(values, text)


class Family(ABC):
    """A metric: a row of sums for each of its label sets, and a last row for all label sets beyond the limit."""

    def __init__(self, name: str, text: str, labels: Mapping[str, Label], width: int) -> None:
        """`text` is the help; `width` is the number of time series of a label set."""
        self.name = name
        self.is_full = False
        self.most = MOST_SERIES // width
        self._text, self._labels = text, labels
        self._sums = np.zeros((self.most + 1, width))
        self._numbers: dict[bytes, int] = {}
        # Without labels there is one series, from the start: Prometheus sees an increase only from one value to the next.
        self._label_sets: dict[tuple[str, ...], int] = {} if labels else {(): 0}

    @abstractmethod
    def add(self, rows: Rows) -> None:
        """Count rows."""

    @abstractmethod
    def metric(self) -> Metric:
        """Return the samples for `prometheus_client`."""

    def _series(self) -> Iterator[tuple[tuple[str, ...], npt.NDArray[np.float64]]]:
        """Yield the label sets in use, each with its row of sums."""
        for label_set, number in self._label_sets.items():
            yield label_set, self._sums[number]
        if self.is_full:
            yield (OTHER,) * len(self._labels), self._sums[self.most]

    def _rows_of_sums(self, rows: Rows, chosen: Mask) -> Index:
        """Return for each chosen row the index of the row of sums that counts it."""
        columns = [np.ascontiguousarray(label.values(rows)[chosen]) for label in self._labels.values()]
        nothing = np.zeros((int(chosen.sum()), 1), np.uint8)  # a family may have no labels
        parts = [nothing, *(column.view(np.uint8).reshape(len(column), -1) for column in columns)]
        keys = np.ascontiguousarray(np.concatenate(parts, axis=1))
        found, first, inverse = np.unique(keys.view(f"V{keys.shape[1]}")[:, 0], return_index=True, return_inverse=True)
        numbers = [
            self._number(key.tobytes(), [column[index] for column in columns])
            for key, index in zip(found, first, strict=True)
        ]
        return np.array(numbers)[inverse]

    def _number(self, key: bytes, values: Sequence[Any]) -> int:
        if key not in self._numbers:
            if len(self._numbers) == self.most:
                self.is_full = True
                return self.most
            texts = tuple(label.text(value) for label, value in zip(self._labels.values(), values, strict=True))
            self._numbers[key] = self._label_sets.setdefault(texts, len(self._label_sets))
        return self._numbers[key]


class Counter(Family):
    """The sum over rows of `amount`, an integer for each; without `amount` the number of rows."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Mapping[str, Label],
        amount: Callable[[Rows], npt.NDArray[Any]] | None = None,
    ) -> None:
        """Count nothing yet. The name is without `_total`; amounts of 0 make no series."""
        super().__init__(name, text, labels, width=1)
        self._amount = amount

    def add(self, rows: Rows) -> None:
        """Count rows."""
        amounts = np.ones(len(rows)) if self._amount is None else self._amount(rows)
        if (chosen := amounts > 0).any():
            np.add.at(self._sums[:, 0], self._rows_of_sums(rows, chosen), amounts[chosen])

    def metric(self) -> Metric:
        """Return the samples for `prometheus_client`."""
        metric = CounterMetricFamily(self.name, self._text, labels=list(self._labels), unit=_unit(self.name))
        for label_set, sums in self._series():
            metric.add_metric(label_set, sums[0])
        return metric


class Histogram(Family):
    """A histogram of times in nanoseconds, one for each row; rows whose time is `UNKNOWN` are not in it.

    A time is in the first bucket whose bound, an integer in nanoseconds, is not below it. So buckets are exact.
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: Mapping[str, Label],
        times_ns: Callable[[Rows], Integers],
        bounds_ns: Sequence[int],
    ) -> None:
        super().__init__(name, text, labels, width=len(bounds_ns) + 3)  # also those of +Inf, _count and _sum
        self._times_ns, self._bounds_ns = times_ns, np.array(bounds_ns)

    def add(self, rows: Rows) -> None:
        """Count rows."""
        times_ns = self._times_ns(rows)
        if (chosen := times_ns != UNKNOWN).any():
            known_ns, numbers = times_ns[chosen], self._rows_of_sums(rows, chosen)
            np.add.at(self._sums, (numbers, np.searchsorted(self._bounds_ns, known_ns)), 1)
            np.add.at(self._sums[:, -1], numbers, known_ns)

    def metric(self) -> Metric:
        """Return the samples for `prometheus_client`."""
        metric = HistogramMetricFamily(self.name, self._text, labels=list(self._labels), unit=_unit(self.name))
        bounds = [*(str(bound_ns / SECOND) for bound_ns in self._bounds_ns.tolist()), "+Inf"]
        for label_set, sums in self._series():
            counts = np.cumsum(sums[: len(bounds)])
            metric.add_metric(label_set, list(zip(bounds, counts, strict=True)), sums[-1] / SECOND)
        return metric


def _unit(name: str) -> str:
    return next((unit for unit in ("seconds", "bytes") if name.endswith(f"_{unit}")), "")


class Exporter(Collector):
    """Counts the rows of a tool and serves the sums."""

    def __init__(self, tool: str, families: Sequence[Family], account: Account) -> None:
        self._tool, self._families, self._account = tool, families, account
        self._said: set[str] = set()
        self._lock = Lock()

    def add(self, rows: Rows) -> None:
        """Count rows. Say once for each metric when it has reached the limit of series."""
        if not len(rows):
            return
        with self._lock:
            for family in self._families:
                family.add(rows)
        for family in self._families:
            if family.is_full and family.name not in self._said:
                self._said.add(family.name)
                self._account.note(
                    f"{family.name} has more than {family.most} label sets: further ones are added up "
                    f"as one, whose labels are `{OTHER}`"
                )

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics (called by `prometheus_client` for each scrape, on a thread of the server)."""
        lost = CounterMetricFamily("lab_events_lost", "Events that the tool has lost", labels=["tool", "reason"])
        lost.add_metric([self._tool, "no_room"], self._account.without_room)
        lost.add_metric([self._tool, "not_run"], self._account.withheld)
        with self._lock:
            metrics = [family.metric() for family in self._families]
        yield from [lost, *metrics]

    def serve(self, address: str, port: int) -> str:
        """Serve at an address until `stop`, and return the URL. Port 0 is any that is free.

        A tool that ends with an error need not call `stop`: the threads of the server are daemons. Raises `LabError` when
        the address or the port cannot be used.
        """
        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        try:
            self._server, self._thread = start_http_server(port, address, registry)
        except OSError as error:
            require_resources(error)
            raise LabError(
                f"{endpoint(address, port)} cannot be served ({error.strerror}): give another address or port"
            ) from error
        report = self._server.handle_error

        def handle_error(request: Any, client: Any) -> None:
            if not isinstance(sys.exception(), ConnectionError):  # a client that has gone is no error of the tool
                report(request, client)

        self._server.handle_error = handle_error  # type: ignore[assignment, method-assign]
        return f"http://{endpoint(address, self._server.server_port)}/metrics"

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
