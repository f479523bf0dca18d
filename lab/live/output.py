"""Options and output of every live tool."""

import argparse
import csv
import importlib
import ipaddress
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lab.errors import LabError
from lab.live.account import Account
from lab.output import terminal
from lab.output.text import cell, printable_row
from lab.tcp import DEMO_PORT
from lab.units import port, positive_seconds

if TYPE_CHECKING:
    from lab.arrays import Rows
    from lab.ebpf.interface import Device
    from lab.live.metrics import Exporter

_AT_ONCE = 1024  # rows that are put into words together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every live tool."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON Lines")
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    form.add_argument(
        "--metrics",
        type=_serving_address,
        metavar="ADDR:PORT",
        help="print nothing; serve the numbers to a Prometheus server at this address; without ADDR at 127.0.0.1",
    )
    parser.add_argument(
        "--seconds", type=positive_seconds, metavar="N", help="stop after this time (default: at Ctrl-C)"
    )
    parser.add_argument(
        "--netns",
        metavar="NETNS",
        help="observe only this network namespace: its name, the id of a process in it, or a path",
    )
    parser.add_argument(
        "-w", "--wide", action="store_true", help="all columns, wide enough for IPv6, whatever the terminal's width"
    )
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option of tools that observe a network interface."""
    parser.add_argument(
        "-i",
        "--interface",
        metavar="NAME",
        help="the interface to observe, by its name or altname (default: the only one besides lo)",
    )


def device_of(args: argparse.Namespace, mode: str = "auto") -> "Device":
    """Return the interface that the user named, or the only one. Raises `LabError` when it cannot be observed."""
    from lab.ebpf.interface import Device  # noqa: PLC0415 (not every tool observes one)

    device = Device.find(args.interface, args.netns, mode)
    if args.interface is None:
        _tell(f"watching the interface {device.ifname}: `-i NAME` watches another")
    return device


def tell_port(every: str = "") -> None:
    """Tell somebody at a terminal that the demo's port is observed, and how to observe others."""
    _tell(f"watching port {DEMO_PORT}: `--port N` watches another{every}")


def _tell(default: str) -> None:
    if sys.stderr.isatty():
        print(f"lab: {default}", file=sys.stderr)


def _serving_address(text: str) -> tuple[str, int]:
    """Parse the address and the port of a server (argparse type): `127.0.0.1:9435`, `[::1]:9435`, `:9435`."""
    address, colon, number = text.rpartition(":")
    in_brackets = address.startswith("[") and address.endswith("]")
    try:
        parsed = ipaddress.ip_address(address.strip("[]") or "127.0.0.1")
        if colon and in_brackets == (parsed.version == 6):
            return str(parsed), 0 if number == "0" else port(number)
    except (ValueError, argparse.ArgumentTypeError):
        pass
    raise argparse.ArgumentTypeError(
        f"`{text}` is not an address with a port: write it like 192.0.2.1:9435, [2001:db8::1]:9435, or :9435 for 127.0.0.1"
    )


class Output:
    """Prints rows as a table, as JSON Lines or as CSV; with `--metrics` it counts them and prints nothing.

    `width` is the number of columns that the lines of a table may have; None is no limit.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.width = None if args.json or args.csv or args.wide else terminal.columns()
        self._csv: csv.DictWriter[str] | None = None
        self._exporter: Exporter | None = None
        self.account = Account()

    def start(self) -> None:
        """Serve the `--metrics`, and write "ready" to `--ready-fd`: the probe is attached. Call this before slow imports."""
        if self._args.metrics is not None:
            self._exporter = self._export(*self._args.metrics)
        if self._args.ready_fd is not None:
            os.write(self._args.ready_fd, b"ready\n")

    def heading(self, line: str) -> None:
        """Print the heading, if a table is printed."""
        if not (self._args.json or self._args.csv or self._exporter):
            print(terminal.bold(terminal.cut(line, self.width)), flush=True)

    def shown(self, rows: "Rows") -> "Rows":
        """Return the rows to print: with `--metrics` they are counted, and none is left."""
        if self._exporter is None:
            return rows
        self._exporter.add(rows)
        return rows[:0]

    def rows(
        self,
        rows: "Rows",
        as_dicts: "Callable[[Rows], Iterable[Mapping[str, Any]]]",
        line: Callable[[Any], str],
        alarming: Callable[[Any], bool] = lambda _: False,
    ) -> None:
        """Print rows, or count them with `--metrics`.

        `as_dicts` gives their fields. `line` formats them as a line of the table, unless the output is JSON or CSV; a
        line that is wider than the terminal is cut, and an `alarming` one is red.
        """
        rows = self.shown(rows)
        for first in range(0, len(rows), _AT_ONCE):
            self._print(as_dicts(rows[first : first + _AT_ONCE]), line, alarming)

    def row(self, row: Mapping[str, Any], line: Callable[[Any], str]) -> None:
        """Print one row that no metric counts."""
        if not self._exporter:
            self._print([row], line)

    def _print(
        self,
        rows: Iterable[Mapping[str, Any]],
        line: Callable[[Any], str],
        alarming: Callable[[Any], bool] = lambda _: False,
    ) -> None:
        if self._args.csv:
            for row in rows:
                if self._csv is None:
                    self._csv = csv.DictWriter(sys.stdout, list(row))
                    self._csv.writeheader()
                self._csv.writerow({name: cell(value) for name, value in row.items()})
            return
        if self._args.json:
            from lab.output.json_lines import as_json  # noqa: PLC0415 (only if there is something to print)

            texts = (as_json(row) for row in rows)
        else:
            texts = (self._lines(row, line, alarming=alarming(row)) for row in rows)
        for text in texts:  # each in one write: without buffering, a signal can cut one that the pipe has no room for
            sys.stdout.write(f"{text}\n")

    def _lines(self, row: Mapping[str, Any], line: Callable[[Any], str], *, alarming: bool) -> str:
        text = line(row)
        if not text.isprintable():  # a character in it, or a second line
            text = line(printable_row(row))
        if self.width is not None:
            text = "\n".join(terminal.cut(line, self.width) for line in text.split("\n"))
        return terminal.red(text) if alarming else text

    def note(self, text: str) -> None:
        """Say what could not be shown, on standard error; "" says nothing."""
        self.account.note(text)

    def end(self) -> None:
        """Stop serving. With `--json`, print the account as the last object, unless there is nothing to tell."""
        if self._exporter:
            self._exporter.stop()
        if self._args.json and (account := self.account.as_dict()):
            sys.stdout.write(f"{json.dumps(account)}\n")

    def _export(self, address: str, number: int) -> "Exporter":
        """Serve the metrics of the tool, which the module `metrics` beside its `cli` describes."""
        from lab.live.metrics import Exporter  # noqa: PLC0415 (with NumPy and prometheus_client, slow)

        package = self._args.run.__module__.rpartition(".")[0]
        tool = package.rpartition(".")[2]
        name = f"{package}.metrics"
        try:
            described = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise LabError(f"`lab {tool}` has no metrics: leave --metrics out, or write {name}") from error
        exporter = Exporter(tool, described.families(self._args), self.account)
        print(f"lab: metrics at {exporter.serve(address, number)}", file=sys.stderr, flush=True)
        return exporter
