"""Output of `lab layers`: rows as they come; at the end percentiles, histograms, the waterfall and the requested files.

What does not live here: the text of a row (lab/probes/layers/text.py).
"""

import argparse
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from lab.arrays import Events, Rows
from lab.errors import LabError
from lab.live.output import Output
from lab.probes.layers import text as layer_text
from lab.probes.layers.perfetto import MOST_REQUESTS, write_trace
from lab.probes.layers.plot import draw
from lab.probes.layers.requests import REQUEST, Kind, are_requests, unseen_bytes
from lab.probes.layers.stages import BY_MPTCP
from lab.tcp import address_text, endpoint

_MOST_KEPT = 1_000_000  # requests for the output at the end
_ANY = 0
_MEANINGS = {
    Kind.STREAM: "requests with a streamed reply, whose total includes its pauses",
    Kind.STRETCH: "stretches of pipelined or multiplexed connections, which are not divided into requests",
    Kind.PUSH: "pushes, data of a server without a request",
}


class Show:
    """Prints rows, and keeps them for the percentiles and files at the end."""

    def __init__(self, args: argparse.Namespace, output: Output, flow: tuple[str, int] | None) -> None:
        """`flow` is the only client to show, as address and port; port 0 is any."""
        self._args, self._output, self._flow = args, output, flow
        self._seen: set[str] = set()
        self._kept: deque[Rows] = deque()
        self._shown = self._dropped = self._contradictory = 0
        self._kinds = np.zeros(len(Kind), int)
        self._unseen = np.zeros(2, np.int64)
        self._mptcp = False

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

    def heading(self) -> None:
        """Print the head line, unless only the percentiles are printed."""
        if not self._args.summary:
            self._output.heading(layer_text.header(packets=self._args.packets))

    def rows(self, rows: Rows) -> None:
        """Print requests, or segments, and keep the requests."""
        self.lines(self.keep(rows))

    def lines(self, rows: Rows) -> None:
        """Print requests, or segments, unless only the percentiles are printed."""
        if not self._args.summary:
            for row in rows:
                if self._args.packets:
                    self._output.row(layer_text.packet_dict(row), layer_text.packet_line)
                else:
                    self._output.row(layer_text.as_dict(row), layer_text.line)

    def keep(self, rows: Rows) -> Rows:
        """Count rows and keep the requests; returns the rows of the requested flow."""
        if self._flow is not None:
            rows = self._wanted(rows)
        self._shown += len(rows)
        self._contradictory += int(rows["contradictory"].sum())
        if not self._args.packets and len(rows):
            self._kinds += np.bincount(rows["kind"], minlength=len(Kind))
            self._kept.append(rows[are_requests(rows)])
            while sum(map(len, self._kept)) - len(self._kept[0]) >= _MOST_KEPT:
                self._dropped += len(self._kept.popleft())
        return rows

    def points(self, events: Events) -> None:
        """Take note of the bytes of a batch of points: which of them had no observed system call."""
        self._unseen += unseen_bytes(events)
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
            self._summary(self._requests())

    def _requests(self) -> Rows:
        return np.concatenate([np.zeros(0, REQUEST), *self._kept])

    def _files(self) -> None:
        rows = self._requests()
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
        if self._dropped:
            kept = sum(map(len, self._kept))
            self._output.note(
                f"percentiles and files cover the last {kept} requests, without {self._dropped} earlier ones"
            )

    def _summary(self, rows: Rows) -> None:
        args = self._args
        if args.summary and (args.json or args.csv):
            for row in layer_text.summary(rows):
                self._output.row(row, str)
        elif not args.packets and not args.json and not args.csv:
            print("\n".join(["", *layer_text.summary_lines(rows)]))
        if args.histogram:
            print("\n".join(layer_text.histograms(rows)))
        if args.waterfall and len(rows):
            print("\n".join(["", *layer_text.waterfall(layer_text.typical(rows))]))

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
