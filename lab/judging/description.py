"""Descriptions of tools: TOML files with a command line, the form of the output, and the quantities that the tool tells.

`docs/judge-your-tool.md` explains the format with three examples. A description needs no code; `output.python` names a
function for an output that no other form fits.
"""

import argparse
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from lab.errors import LabError
from lab.judging import kinds, points
from lab.judging.quantity import Quantity
from lab.results import schema
from lab.units import BYTES_OF_UNIT, NS_OF_UNIT, duration_ns

SHIPPED = Path(__file__).with_name("tools")
"""The folder of the descriptions that come with the lab."""

FRAMES = "frames"
"""`attach` of a tool that sees frames at an interface, not sockets."""

_NAME = Annotated[str, Meta(min_length=1, max_length=60)]
_WORDS = Annotated[list[str], Meta(min_length=1, max_length=100)]
PLACEHOLDERS = (
    "netns", "peer_netns", "interface", "port", "local_port", "client", "server", "folder", "ready_fd", "kernel_headers",
    "include_path",
)  # fmt: skip
"""What stands in braces in a command line, and is replaced."""

_BRACES = re.compile(r"(?<!\$)\{(\w+)\}")


class Ready(Struct, forbid_unknown_fields=True, frozen=True):
    """How a tool says that it observes.

    - `text`: it prints this text, on standard output or error.
    - `after`: nothing says so; it observes after this time, for example `2s`.
    - Neither: it writes a line to the file descriptor `{ready_fd}` of its command line, or answers at `output.address`.
    """

    text: str = ""
    after: str = ""


class Output(Struct, forbid_unknown_fields=True, frozen=True):
    """How a tool's output becomes records: fields with names.

    - `json`: an object on each line. With `each`, the name of a list in it, each element is a record with the object's
      other fields; its own are called `LIST.FIELD`.
    - `table`: `row`, a regular expression with named groups, on each line. The groups of `heading` hold for the rows
      below it.
    - `csv`: `columns` names the fields; without, the first line does. `separator` is one character.
    - `openmetrics`: the samples scraped from `address` at the end, each with `metric`, `value` and its labels.
    - `python`: `FILE:FUNCTION`, a function that takes the whole text and yields dictionaries. FILE is beside the
      description.
    """

    format: Literal["json", "table", "csv", "openmetrics", "python"] = "json"
    each: str = ""
    row: str = ""
    heading: str = ""
    columns: list[str] = []
    separator: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    address: str = ""
    python: str = ""


class Filters(Struct, forbid_unknown_fields=True, frozen=True):
    """Options that limit a tool to a port; empty if it has none."""

    local_port: list[str] = []
    remote_port: list[str] = []


class Description(Struct, forbid_unknown_fields=True, frozen=True, dict=True):
    """A tool.

    - `command`: its command line, with placeholders in braces: `{netns}`, `{interface}`, `{port}`, `{server}`,
      `{client}`, `{folder}` (an empty one for its files), `{ready_fd}`.
    - `project`: the address of its project; `version`: the command that prints its version.
    - `attach`: where its program runs, such as `tracepoint:sock:inet_sock_set_state`. `frames` if it sees
      frames at an interface: some cases are for these tools only.
    - `inside`: start it in the network namespace of the observed host.
    - `stop`: the signal that ends it and its children, as Ctrl-C does. `limit`: how long it may take to end.
    - `settle`: how long after the traffic it may print something, if it is silent before that.
    - `install`: how to install it, for the message that it is not installed.
    - `lost`: a regular expression for what it says of events or packets that it lost; the first group is their number.
      Without a group the tool says that it lost some, and not how many.
    - `ours`, `group`, `bench`: a tool of the lab itself, its group in the bench, and whether the bench measures it.
    - `cases`: the only cases that it answers; by default every case of its kinds.
    """

    name: _NAME
    command: _WORDS
    quantities: Annotated[list[Quantity], Meta(min_length=1)] = msgspec.field(name="quantity")
    project: str = ""
    version: list[str] = []
    attach: str = ""
    ready: Ready = Ready()
    inside: bool = False
    stop: Literal["INT", "TERM", "KILL"] = "INT"
    limit: str = "20s"
    settle: str = ""
    install: str = ""
    environment: dict[str, str] = {}
    filters: Filters = Filters()
    output: Output = Output()
    lost: str = r"\blost (\d+)|\b(\d+) (?:\w+ )?(?:lost|dropped)\b"
    cases: list[str] = []
    ours: bool = False
    group: str = ""
    bench: bool = True

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its quantities."""
        return tuple(dict.fromkeys(quantity.kind for quantity in self.quantities))

    @property
    def kind(self) -> str:
        """The group of tools with which the bench compares it: `group`, by default the kind of its first quantity."""
        return self.group or self.quantities[0].kind.removesuffix("-histogram")

    @property
    def at(self) -> str:
        """The event for which its program runs: a tracepoint's name, or `FRAMES`."""
        return self.attach.rpartition(":")[2]

    @cached_property
    def folder(self) -> Path:
        """The folder of the description, for `output.python`; set by `load`."""
        return SHIPPED

    def __hash__(self) -> int:
        return hash(self.name)

    def words(
        self, places: Mapping[str, str], local_port: int | None = None, remote_port: int | None = None
    ) -> list[str]:
        """Return the command line for these places, with the options of its filters."""
        words = list(self.command)
        for port, options in ((local_port, self.filters.local_port), (remote_port, self.filters.remote_port)):
            if port is not None:
                words += [option.replace("{port}", str(port)) for option in options]
        return [filled(word, places) for word in words]

    def mentions(self, placeholder: str) -> bool:
        """Return whether the command or the environment has a placeholder."""
        return any(f"{{{placeholder}}}" in word for word in (*self.command, *self.environment.values()))


def filled(word: str, places: Mapping[str, str]) -> str:
    """Return a word with its placeholders replaced. Other braces are kept, as in a script of bpftrace."""
    return _BRACES.sub(lambda found: places.get(found[1], found[0]), word)


def load(path: Path) -> Description:
    """Return the description in a file. Raises `LabError` with the place of the first mistake."""
    remedy = "see docs/judge-your-tool.md for the format"
    tool = schema.read(path, _decode, remedy)
    for number, quantity in enumerate(tool.quantities):
        _check(path, f"quantity {number + 1}", quantity)
    for pattern in (
        tool.output.row,
        tool.output.heading,
        tool.lost,
        *(w for q in tool.quantities for w in q.where.values()),
    ):
        try:
            re.compile(pattern)
        except re.error as error:
            raise LabError(f"{path}: `{pattern}` is no regular expression ({error}): {remedy}") from error
    if tool.output.format == "table" and not tool.output.row:
        raise LabError(f"{path}: a table needs `output.row`, a regular expression with named groups: {remedy}")
    if tool.output.format == "openmetrics" and not tool.output.address:
        raise LabError(f"{path}: OpenMetrics need `output.address`, from which they are scraped: {remedy}")
    if not (tool.ready.text or tool.ready.after or tool.mentions("ready_fd") or tool.output.address):
        raise LabError(
            f"{path}: nothing says when it observes: give `ready.text` or `ready.after`, or use {{ready_fd}}: {remedy}"
        )
    _check_times(path, tool)
    _check_placeholders(path, tool)
    tool.__dict__["folder"] = path.absolute().parent
    return tool


def _decode(content: bytes) -> Description:
    try:
        return msgspec.convert(tomllib.loads(content.decode()), Description)
    except tomllib.TOMLDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def _check_times(path: Path, tool: Description) -> None:
    """Raise `LabError` for a setting that is no time."""
    times = {"ready.after": tool.ready.after, "settle": tool.settle, "limit": tool.limit}
    times |= {f"resolution of quantity {number}": it.resolution for number, it in enumerate(tool.quantities, 1)}
    for name, text in times.items():
        try:
            duration_ns(text or "0s")
        except argparse.ArgumentTypeError as error:
            raise LabError(f"{path}: {name}: {error}") from error


def _check_placeholders(path: Path, tool: Description) -> None:
    """Raise `LabError` for a word in braces that is no placeholder. `${{name}}` is the shell's."""
    for word in (*tool.command, *tool.environment.values()):
        for name in _BRACES.findall(word):
            if name not in PLACEHOLDERS:
                raise LabError(f"{path}: `{{{name}}}` is no placeholder: choose from {', '.join(PLACEHOLDERS)}")


def _check(path: Path, place: str, quantity: Quantity) -> None:
    def require(name: str, value: str, known: Iterable[str]) -> None:
        if value not in known:
            raise LabError(f"{path}: {place} has the {name} `{value}`: choose from {', '.join(known)}")

    require("kind", quantity.kind, kinds.KINDS)
    if quantity.kind == "events" and not quantity.event:
        raise LabError(f"{path}: {place} needs `event`: attempted, opened, accepted, closed or failed")
    if kinds.KINDS[quantity.kind].timed:
        for name, point in (("from", quantity.start), ("to", quantity.end)):
            require(f"point `{name}` =", point, points.POINTS)
        require("unit", quantity.unit, NS_OF_UNIT)
    fields = kinds.KINDS[quantity.kind].fields
    if quantity.unit:
        require("unit", quantity.unit, BYTES_OF_UNIT if "bytes" in fields else NS_OF_UNIT)
    for name in quantity.fields:
        require("field", name, fields)


@cache
def shipped() -> tuple[Description, ...]:
    """Return the tools that come with the lab: its own, then the peers, each sorted by kind and name."""
    found = [load(path) for path in SHIPPED.glob("*.toml")]
    return tuple(sorted(found, key=lambda tool: (not tool.ours, tool.kind, tool.name)))


def named(words: Sequence[str]) -> list[Description]:
    """Return tools by the paths of their descriptions, or by the names of those that come with the lab; all without words."""
    if not words:
        return list(shipped())
    by_name = {path.stem: path for path in SHIPPED.glob("*.toml")}
    found = []
    for word in words:
        path = Path(word)
        if not path.is_file() and word not in by_name:
            raise LabError(
                f"there is no tool {word}: name the file of a description, or one of {', '.join(sorted(by_name))}"
            )
        found.append(load(path if path.is_file() else by_name[word]))
    return found
