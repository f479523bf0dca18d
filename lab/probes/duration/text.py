"""The output of `lab duration`: a line per connection, the file of durations, and the histogram."""

import argparse
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from lab.arrays import UNKNOWN, Integers, Rows
from lab.choice import Choice
from lab.live import fields
from lab.live.filters import wanted
from lab.live.output import Output
from lab.probes.duration.head import HEAD, NARROW
from lab.probes.duration.measure import lifetimes
from lab.probes.duration.statistics_file import DurationsFile, Histogram, line
from lab.probes.duration.tracker import MOST_CONNECTIONS
from lab.tcp import Ended, Side, endpoint
from lab.units import SECOND

if TYPE_CHECKING:
    from lab.observation import Observed
    from lab.probes.duration.rows import Lifetime

_FAILED = ("rst", "refused", "timeout")


class Show:
    """The destinations of rows: standard output, the file, the histogram."""

    def __init__(self, args: argparse.Namespace, ifname: str, output: Output, file: DurationsFile | None) -> None:
        self._args, self._output, self._file = args, output, file
        self._line = partial(text, verbose=args.verbose)
        self._as_dicts = partial(as_dicts, ifname=ifname)
        self._shown = partial(self._line, columns=output.width)
        self._histogram = Histogram()
        self._forgotten = 0

    def rows(self, rows: "Rows | None") -> None:
        """Print connections that have ended, and add them to the file and the histogram."""
        if rows is None:
            return
        rows = self._wanted(rows)
        if self._file and len(rows):
            self._output.note(self._file.append(list(map(self._line, self._as_dicts(rows)))))
        self._histogram.add(rows["duration_ns"][rows["duration_ns"] != UNKNOWN])
        self._output.rows(rows, self._as_dicts, self._shown, alarming=lambda row: row["ended"] in _FAILED)

    def forgotten(self, count: int) -> None:
        """Report that the table is full, the first time."""
        if count and not self._forgotten:
            self._output.note(f"more than {MOST_CONNECTIONS} connections are open: the oldest are forgotten")
        self._forgotten = count

    def end(self, ended: "Rows | None", still_open: "Rows | None") -> None:
        """Print the last rows and the closing notes, close the file, and draw the histogram."""
        self.rows(ended)
        if still_open is not None:
            remaining = self._wanted(still_open)
            if self._args.open:
                self._output.rows(remaining, self._as_dicts, self._shown)
            elif len(remaining):
                self._output.note(f"connections still open: {len(remaining)} (--open lists them)")
        if self._forgotten:
            self._output.note(f"connections forgotten: {self._forgotten}")
        if self._file:
            if self._file.missing:
                self._output.note(f"lines missing from {self._args.output}: {self._file.missing}")
            self._file.close()
        self.draw()

    def draw(self) -> None:
        """Draw the histogram if a picture was asked for."""
        if self._args.plot is not None:
            self._histogram.draw(self._args.plot)

    def _wanted(self, rows: Rows) -> Rows:
        """Return the rows whose client and server are chosen. If the roles are unknown, either end may be the client."""
        args = self._args
        choice = Choice(
            ports=args.port,
            addresses=args.address,
            local_ports=args.client_port,
            local_addresses=args.client_address,
            remote_ports=args.server_port,
            remote_addresses=args.server_address,
        )
        swapped = (rows["roles_known"] == 0) & wanted(choice, rows, "d", "s")
        return rows[wanted(choice, rows, "s", "d") | swapped]


def as_dicts(rows: Rows, ifname: str) -> "Iterator[Lifetime]":
    """Yield rows under the names that `--json` and `--csv` use; None means unknown."""
    syn_seen = (rows["start_ns"] != UNKNOWN) & (rows["only_from"] != Side.SERVER)
    over_ns = np.where(rows["over_ns"] == UNKNOWN, time.monotonic_ns(), rows["over_ns"])
    roles_known = rows["roles_known"] > 0
    return fields.dictionaries(
        fields.heads("duration", over_ns)
        | fields.ends(rows, client="s", server="d")
        | {
            "interface": [ifname] * len(rows),
            "vlan": fields.not_zero(rows["vlan"]),
            "inner_vlan": fields.not_zero(rows["inner_vlan"]),
            "roles_known": roles_known.tolist(),
            "only_from": _sides(rows["only_from"]),
            **{
                name: fields.times(rows[name])
                for name in ("start_ns", "synack_ns", "duration_ns", "second_fin_ns", "end_ns", "over_ns")
            },
            "ended": fields.words(Ended, rows["ended"]),
            "closed_first": fields.known(_sides(rows["closed_first"]), roles_known),
            "syn_retransmissions": fields.known(rows["syn_retransmissions"], syn_seen),
            "fin_retransmissions": rows["fin_retransmissions"].tolist(),
        }
    )


def _sides(numbers: Integers) -> list[str | None]:
    return fields.known(fields.words(Side, numbers), numbers != Side.NOBODY)


def text(row: "Lifetime", *, verbose: bool = False, columns: int | None = None) -> str:
    """Return one line of the table for a terminal with this number of columns."""
    client, server = (row["client_address"], row["client_port"]), (row["server_address"], row["server_port"])
    remarks = ", ".join(_remarks(row, verbose=verbose))
    if columns is None or columns >= NARROW:
        return line(client, server, row["duration_ns"], remarks)
    seconds = "-" if row["duration_ns"] is None else f"{row['duration_ns'] / SECOND:.9f}"
    return f"{seconds:>13} s {endpoint(*client)} -> {endpoint(*server)}" + (f" | {remarks}" if remarks else "")


def _remarks(row: "Lifetime", *, verbose: bool) -> Iterator[str]:
    ended, by, second = row["ended"], row["closed_first"], row["second_fin_ns"]
    if ended == "rst" and row["over_ns"] != row["end_ns"]:
        yield "fin" + (f" by {by}" if by else "") + ", then rst"
    elif ended == "rst" or (verbose and ended == "fin"):
        yield f"{ended}" + (f" by {by}" if by else "")
    elif ended != "fin":
        if ended in {"open", "replaced"} and row["end_ns"] is not None:
            yield "fin" + (f" by {by}" if by else "")
        yield ended
    if row["start_ns"] is None:
        yield "start not seen"
    if row["only_from"]:
        yield f"only from {row['only_from']}"
    if again := row["syn_retransmissions"]:
        yield f"SYN sent {again + 1} x"
    if verbose and second is not None:
        yield f"second fin after {second / 1e9:.9f} s"
    if verbose and row["fin_retransmissions"]:
        yield f"FIN sent again {row['fin_retransmissions']} x"


def table(observed: "Observed") -> "Iterator[str]":
    """Yield the lines that the live tool would have printed, for each interface."""
    rows = lifetimes(observed.recording.events["duration"], observed.end_ns)
    for ifindex, (ifname, inode) in observed.recording.devices.items():
        host = (
            ("the client", "the server")[observed.inodes.index(inode)] if inode in observed.inodes else "another host"
        )
        yield f"{HEAD}, at {ifname} of {host}"
        yield from map(text, as_dicts(rows[rows["ifindex"] == ifindex], ifname))
