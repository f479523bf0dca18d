"""Output of `lab layers`: rows as they come; at the end percentiles, histograms, the waterfall and the requested files.

What does not live here: the text of a row (lab/probes/layers/text.py).
"""

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from lab.arrays import Events, Rows
from lab.choice import Choice
from lab.errors import LabError
from lab.live.filters import wanted
from lab.live.output import Output
from lab.probes.layers import text as layer_text
from lab.probes.layers.perfetto import MOST_REQUESTS, write_trace
from lab.probes.layers.plot import draw
from lab.probes.layers.requests import REQUEST, Kind, are_requests, unseen_bytes
from lab.probes.layers.stages import BY_MPTCP, OLD_DATA, At
from lab.tcp import address_text, endpoint
from lab.units import SECOND

_MOST_KEPT = 100_000  # requests for percentiles and files: 51 MB
_FIRST_REPORT_NS = SECOND
_DEFAULT_INTERVAL_NS = 10 * SECOND
_ANY = 0
_MEANINGS = {
    Kind.STREAM: "requests with a streamed reply, whose total includes its pauses",
    Kind.STRETCH: "stretches of pipelined or multiplexed connections, which are not divided into requests",
    Kind.PUSH: "pushes, data of a server without a request",
}


class Kept:
    """The last requests, at most `_MOST_KEPT` of them. `dropped` counts the earlier ones."""

    def __init__(self) -> None:
        self._batches: deque[Rows] = deque()
        self._count = self.dropped = 0

    def __len__(self) -> int:
        return self._count

    def add(self, rows: Rows) -> None:
        """Add requests; the oldest ones beyond the limit are dropped."""
        if not len(rows):
            return
        self._batches.append(rows[-_MOST_KEPT:])
        self.dropped += len(rows) - len(self._batches[-1])
        self._count += len(self._batches[-1])
        while self._count - len(self._batches[0]) >= _MOST_KEPT:
            gone = len(self._batches.popleft())
            self._count -= gone
            self.dropped += gone

    def rows(self) -> Rows:
        """Return the requests in the order in which they were added."""
        return np.concatenate([np.zeros(0, REQUEST), *self._batches])


class Show:
    """Prints rows and reports of intervals, and keeps requests for the percentiles and files at the end."""

    def __init__(self, args: argparse.Namespace, output: Output, choice: Choice, flow: tuple[str, int] | None) -> None:
        """`flow` is the only client to show, as address and port; port 0 is any. `choice` has the addresses to show."""
        self._args, self._output, self._choice, self._flow = args, output, choice, flow
        self._seen: set[str] = set()
        self._kept, self._of_interval = Kept(), Kept()
        self._shown = self._contradictory = self._quick = 0
        self._kinds = np.zeros(len(Kind), int)
        self._unseen = np.zeros(2, np.int64)
        self._mptcp = False
        self._resent = 0
        self._began_ns = self._since_ns = time.monotonic_ns()
        self._interval_ns = args.interval or (_DEFAULT_INTERVAL_NS if args.summary or args.top else 0)
        self._report_ns = self._since_ns + (
            _FIRST_REPORT_NS if args.summary and not args.interval else self._interval_ns
        )

    @contextmanager
    def printing(self, rest: Callable[[], Rows] | None = None) -> Iterator[None]:
        """Write the files also if the reader of standard output goes away in the block, as `head` does.

        `rest` returns the rows that are still to come at that moment.
        """
        try:
            yield
        except BrokenPipeError:
            if rest is not None:
                self.keep(rest())
            self._files()
            raise

    def rows(self, rows: Rows) -> None:
        """Print requests, or segments, and keep the requests."""
        self.lines(self.keep(rows))

    def lines(self, rows: Rows) -> None:
        """Print requests, or segments, unless only percentiles or the slowest requests of an interval are printed."""
        if self._args.packets:
            self._output.rows(rows, layer_text.segments_as_dicts, layer_text.packet_line)
        elif not self._args.summary and not self._args.top:
            self._requests(rows)

    def _requests(self, rows: Rows) -> None:
        if self._args.min is not None:
            slow = rows["total_ns"] >= self._args.min
            self._quick += int((~slow).sum())
            rows = rows[slow]
        self._output.rows(rows, layer_text.as_dicts, layer_text.line_for(self._output.width))

    def keep(self, rows: Rows) -> Rows:
        """Count rows and keep the requests; returns the rows that are chosen."""
        names = ("s", "d") if self._args.packets else ("c", "s")
        rows = rows[wanted(self._choice, rows, *names)]
        if self._flow is not None:
            rows = self._wanted(rows)
        self._shown += len(rows)
        self._contradictory += int(rows["contradictory"].sum())
        if not self._args.packets and not self._args.metrics and len(rows):
            self._kinds += np.bincount(rows["kind"], minlength=len(Kind))
            requests = rows[are_requests(rows)]
            self._kept.add(requests)
            if self._interval_ns:
                self._of_interval.add(requests)
        return rows

    def report(self, now_ns: int, *, final: bool = False) -> None:
        """Print what is due at this time: the slowest requests of the interval, and its percentiles."""
        if not self._interval_ns or (now_ns < self._report_ns and not final):
            return
        rows, since_ns = self._of_interval.rows(), self._since_ns
        self._of_interval, self._since_ns = Kept(), now_ns
        self._report_ns = now_ns + self._interval_ns
        if self._args.top:
            self._requests(rows.take(np.argsort(-rows["total_ns"], kind="stable")[: self._args.top]))
        if final and (not self._args.interval or since_ns == self._began_ns):
            return  # the percentiles of the whole time follow
        self._percentiles(rows, since_ns)

    def points(self, events: Events) -> None:
        """Take note of the bytes of a batch of points: which of them had no observed system call."""
        self._unseen += unseen_bytes(events)
        self._resent += int(
            ((events["at"] == At.TC_OUT) & (events["of_socket"] == OLD_DATA) & (events["length"] > 0)).sum()
        )
        self._mptcp |= bool((events["multiplexed"] == BY_MPTCP).any())

    def end(self) -> None:
        """Write the files and print the summary.

        Raises `LabError` if there was no row of the requested flow, or if a file cannot be written.
        """
        if self._flow is not None and not self._shown:
            seen = ", ".join(sorted(self._seen)[:5])
            remedy = f"give --flow one of {seen}" if seen else "no other client was seen either, so check --port"
            raise LabError(f"there is no request of {self._args.flow}: {remedy}")
        try:
            self._files()
        finally:  # what was seen is printed also if a file cannot be written
            self._account()
            self._summary(self._kept.rows())

    def _files(self) -> None:
        rows = self._kept.rows()
        if self._args.perfetto is not None:
            write_trace(self._args.perfetto, rows)
            if len(rows) > MOST_REQUESTS:
                self._output.note(f"{self._args.perfetto} has the first {MOST_REQUESTS} of {len(rows)} requests")
        if self._args.plot is not None:
            draw(self._args.plot, rows)

    def _account(self) -> None:
        """Print what is not a request, and what is not known."""
        if self._mptcp:
            self._output.note(
                "MPTCP was seen: each subflow is a connection of stretches, and its calls are not observed"
            )
        for what, count in zip(
            ("sent, but written by no", "received, but read by no"), self._unseen.tolist(), strict=True
        ):
            if count > 0:
                self._output.note(f"bytes {what} observed system call: {count}")
        for kind, meaning in _MEANINGS.items():
            if self._kinds[kind]:
                self._output.note(f"{meaning}: {self._kinds[kind]}")
        if self._contradictory:
            self._output.note(f"rows with unknown times, because stages contradicted each other: {self._contradictory}")
        if self._resent:
            self._output.note(f"segments that were sent again: {self._resent} (`lab retransmits` shows them)")
        if self._kept.dropped:
            self._output.note(
                f"percentiles and files cover the last {len(self._kept)} requests, without {self._kept.dropped} "
                "earlier ones"
            )
        if self._quick:
            self._output.note(f"rows faster than --min, or of unknown total, which are not shown: {self._quick}")

    def _summary(self, rows: Rows) -> None:
        args = self._args
        if not args.packets:
            self._percentiles(rows, None)
        if args.histogram:
            print("\n".join(layer_text.histograms(rows)))
        if args.waterfall and len(rows):
            print("\n".join(["", *layer_text.waterfall(layer_text.typical(rows))]))

    def _percentiles(self, rows: Rows, since_ns: int | None) -> None:
        """Print percentiles of these requests: of each layer, and with --interval also of each peer."""
        args = self._args
        if args.metrics:
            return
        if args.json or args.csv:
            if args.summary or args.interval:
                for row in layer_text.summaries(rows, since_ns):
                    self._output.row(row, str)
        else:
            print("\n".join(["", *layer_text.summary_lines(rows, since_ns, peers=bool(args.interval))]), flush=True)

    def _wanted(self, rows: Rows) -> Rows:
        """Return the rows of the requested client: requests by their client, segments by either end."""
        ends = ("saddr", "sport"), ("daddr", "dport")
        wanted = np.zeros(len(rows), bool)
        for address, number in ends if self._args.packets else (("caddr", "cport"),):
            for index, row in enumerate(rows):
                here = (address_text(row[address].tobytes()), int(row[number]))
                self._seen.add(endpoint(*here))
                wanted[index] |= self._flow in (here, (here[0], _ANY))
        return rows[wanted]
