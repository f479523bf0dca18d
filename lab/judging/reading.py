"""What a tool printed, as rows: text to records by the form of the output, records to typed fields by a quantity."""

import csv
import importlib.util
import io
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from lab.errors import LabError
from lab.judging.description import Description
from lab.judging.kinds import KINDS
from lab.judging.quantity import Quantity, Row, Told
from lab.tcp import State, byte_swapped
from lab.units import BYTES_OF_UNIT, NS_OF_UNIT, SECOND

Record = dict[str, Any]

_LONGEST = 1000
_PORTS = ("lport", "rport", "sport", "dport")
_ANY_NUMBER = 1 << 62
_SUFFIX = re.compile(r"_\d+$")
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_STATES = {state.name.replace("_", ""): state.name for state in State} | {
    "ESTAB": "ESTABLISHED", "CLOSED": "CLOSE", "UNCONN": "CLOSE", "TIMEWAIT": "TIME_WAIT",
}  # fmt: skip
_VALUES = frozenset({"value", "mean", "low"})
"""The fields of which a row must have one, if its kind has them."""
_DATE = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
_OCTETS = re.compile(r"(\d+(?:, ?\d+)+)")


def told(tool: Description, quantity: Quantity, output: str, stderr: str) -> Told:
    """Return the rows of one quantity."""
    matches = {name: re.compile(pattern) for name, pattern in quantity.where.items()}
    rows = []
    for record, raw in records(tool, output):
        if all(pattern.fullmatch(_text(record.get(name))) for name, pattern in matches.items()):
            rows.append(
                Row(dict(_fields(tool, quantity, record, raw)), raw if len(raw) <= _LONGEST else f"{raw[:_LONGEST]}…")
            )
    fields = KINDS[quantity.kind].fields
    values = (
        _VALUES & fields.keys() if "newstate" not in fields else frozenset()
    )  # a change of state is told without a time, too
    if rows and values and not any(values & row.fields.keys() for row in rows):
        raise LabError(
            f"{tool.name}: no record has the field `{'` or `'.join(sorted(values))}`, such as `{rows[0].raw}`: name it in `fields`"
        )
    lost = sum(_number(found) for found in re.finditer(tool.lost, stderr, re.IGNORECASE))
    return Told(rows, lost)


def without_foreign(tool: Description, output: str, port: int) -> tuple[str, int]:
    """Return what a tool of the whole machine printed without lines of other traffic, and the number of those lines.

    A line of other traffic names two ports, neither of which is the experiment's, or its byte swap.
    """
    if tool.inside or tool.mentions("netns") or tool.output.format not in ("json", "table"):
        return output, 0
    own = {port, byte_swapped(port), port + 1, 0}
    lines = output.splitlines(keepends=True)
    kept = [
        line for line in lines if not any(_is_foreign(tool, record, raw, own) for record, raw in records(tool, line))
    ]
    return "".join(kept), len(lines) - len(kept)


def _is_foreign(tool: Description, record: Record, raw: str, own: set[int]) -> bool:
    for quantity in tool.quantities:
        fields = dict(_fields(tool, quantity, record, raw))
        ports = [fields[name] for name in _PORTS if fields.get(name) is not None]
        if len(ports) == 2 and not own.intersection(ports):
            return True
    return False


def unread(tool: Description, output: str, port: int) -> str:
    """Return the first line with the experiment's port that is no record: a mistake of the description; "" without one."""
    if tool.output.format not in ("json", "table"):
        return ""
    lines = (line for line in output.splitlines() if re.search(rf"\b{port}\b", line) and not list(records(tool, line)))
    return next(lines, "")[:_LONGEST]


def _number(said: re.Match[str]) -> int:
    """Return the number in what a tool says that it lost. A pattern without a group stands for any number."""
    return int(next((group for group in said.groups() if group), 0)) if said.re.groups else _ANY_NUMBER


def records(tool: Description, output: str) -> Iterator[tuple[Record, str]]:
    """Yield the records of an output, each with its own text. Lines of another form, such as headings, are skipped."""
    return _FORMS[tool.output.format](tool, output)


def _json(tool: Description, output: str) -> Iterator[tuple[Record, str]]:
    for line in output.splitlines():
        if not line.endswith("}"):
            continue
        try:
            record = json.loads(line)
        except ValueError:  # a line that was cut off, or no JSON
            continue
        if isinstance(record, dict):
            elements = record.pop(tool.output.each, None) or [{}]
            for element in elements:
                yield _flat(record | {tool.output.each: element}), line


def _flat(record: Mapping[str, Any], before: str = "") -> Record:
    """Return a record whose objects within objects have fields named `a.b`, and whose lists have `a.0`."""
    found: Record = {}
    for name, value in record.items():
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(inner, dict):
            found |= _flat({str(key): it for key, it in inner.items()}, f"{before}{name}.")
        else:
            found[before + name] = value
    return found


def _table(tool: Description, output: str) -> Iterator[tuple[Record, str]]:
    row, heading = re.compile(tool.output.row), re.compile(tool.output.heading) if tool.output.heading else None
    held: Record = {}
    for line in output.splitlines():
        if heading and (found := heading.search(line)):
            held = _named(found)
        elif found := row.search(line):
            yield held | _named(found), line


def _named(found: re.Match[str]) -> Record:
    """Return the groups of a match. Groups `port_1` and `port_2` are alternatives for the field `port`, the first one wins."""
    fields: Record = {}
    for name, value in sorted(found.groupdict().items()):
        if value is not None:
            fields.setdefault(_SUFFIX.sub("", name), value)
    return fields


def _csv(tool: Description, output: str) -> Iterator[tuple[Record, str]]:
    columns = tool.output.columns or None
    for values in csv.DictReader(io.StringIO(output), columns, delimiter=tool.output.separator):
        if None not in values and None not in values.values():
            yield dict(values), tool.output.separator.join(values.values())


_SAMPLE = re.compile(r"^(?P<metric>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def _openmetrics(_: Description, output: str) -> Iterator[tuple[Record, str]]:
    """Yield the samples of an exposition (OpenMetrics 1.0, 5)."""
    for line in output.splitlines():
        if found := _SAMPLE.match(line):
            labels = {name: value.replace(r"\"", '"') for name, value in _LABEL.findall(found["labels"] or "")}
            yield {"metric": found["metric"], "value": found["value"], **labels}, line


def _python(tool: Description, output: str) -> Iterator[tuple[Record, str]]:
    file, _, name = tool.output.python.partition(":")
    path = tool.folder / file
    spec = importlib.util.spec_from_file_location(f"tool_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise LabError(f"`output.python` of {tool.name} names {path}, which is no Python file: write FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    read: Callable[[str], Iterable[Record]] | None = getattr(module, name, None)
    if read is None:
        raise LabError(f"{path} has no function `{name}`, which `output.python` of {tool.name} names")
    for record in read(output):
        yield record, str(record.get("raw", record))


_FORMS: dict[str, Callable[[Description, str], Iterator[tuple[Record, str]]]] = {
    "json": _json, "table": _table, "csv": _csv, "openmetrics": _openmetrics, "python": _python,
}  # fmt: skip


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


def _fields(tool: Description, quantity: Quantity, record: Record, raw: str) -> Iterator[tuple[str, Any]]:
    """Yield a row's fields with their types. Raises `LabError` for a value of another type."""
    own = {there: here for here, there in quantity.fields.items()}
    for there, value in record.items():
        name = own.get(there, there if there not in quantity.fields else None)
        if name is None or (name == "time" and not quantity.clock):  # nothing to compare a time without a clock with
            continue
        if _text(value).strip() in quantity.unknown:
            yield name, None
            continue
        try:
            text = _text(value).strip()
            yield name, _typed(name, text, quantity.unit) if name in KINDS[quantity.kind].fields else text
        except ValueError:
            raise LabError(
                f"{tool.name}: the field `{there}` of `{raw[:_LONGEST]}` is no {name}: correct the description"
            ) from None


def _typed(name: str, text: str, unit: str) -> Any:
    if name in _NUMBERS:
        return _NUMBERS[name](text, unit)
    return _TEXTS[name](text) if name in _TEXTS else text


def _integer(text: str, _: str = "") -> int:
    return int(float(text)) if "." in text else int(text, 0) if text.startswith("0x") else int(text)


def _time(text: str, unit: str) -> int | float:
    """Return a time in nanoseconds, exactly: a float has too few digits for a time of day."""
    if unit not in NS_OF_UNIT:
        return float(text)
    whole, _, part = text.partition(".")
    digits = part.ljust(9, "0")[:9] if part.isdigit() or not part else None
    if digits is None or not re.fullmatch(r"-?\d+", whole):
        return round(float(text) * NS_OF_UNIT[unit])
    scale = NS_OF_UNIT[unit]
    value = abs(int(whole)) * scale + int(digits) * scale // 1_000_000_000
    return -value if whole.startswith("-") else value


def _instant(text: str, unit: str) -> int | float:
    """Return a time of a row in nanoseconds: a number, or a date with a time of day (RFC 3339) as Unix time."""
    if not (date := _DATE.fullmatch(text)):
        return _time(text, unit)
    whole = datetime.fromisoformat(f"{date[1]}{date[3].replace('Z', '+00:00')}")
    return int(whole.timestamp()) * SECOND + int((date[2] or "").ljust(9, "0")[:9])


def _size(text: str, unit: str) -> int:
    return round(float(text) * BYTES_OF_UNIT.get(unit, 1))


def _prefixed(text: str, _: str = "") -> int:
    """Return a number with a suffix of powers of 1024, as bpftrace prints the bounds of a bucket."""
    return int(text[:-1]) * _SIZES[text[-1]] if text[-1:] in ("K", "M", "G") else _integer(text)


_NUMBERS: dict[str, Callable[[str, str], Any]] = {
    "value": _time, "mean": _time, "sum": _time, "time": _instant, "bytes": _size,
    "low": _prefixed, "lport": _integer, "rport": _integer, "sport": _integer, "dport": _integer,
    "pid": _integer, "count": _integer, "number": _integer, "packets": _integer,
}  # fmt: skip


def _address(text: str) -> str:
    """Return an address in its usual form: without brackets, IPv4-mapped as IPv4, octets as an address."""
    text = text.strip("[]").partition("%")[0]
    if _OCTETS.fullmatch(text):
        octets = bytes(int(octet) for octet in text.split(","))
        return _address(str(ipaddress.ip_address(octets)))
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text  # a tool may print a name, or nothing
    return str(getattr(address, "ipv4_mapped", None) or address)


def _state(text: str) -> str:
    plain = text.upper().removeprefix("TCP_").replace("_", "").replace("-", "")
    if plain.isdigit() and int(plain) in State._value2member_map_:
        return State(int(plain)).name
    return _STATES.get(plain, text)


_TEXTS: dict[str, Callable[[str], Any]] = {
    "laddr": _address, "raddr": _address, "source": _address, "destination": _address, "oldstate": _state, "newstate": _state,
}  # fmt: skip
