"""Requests and their layers as text: dictionaries for `--json` and `--csv`, tables, histograms and the waterfall.

What does not live here: pictures (lab/probes/layers/plot.py) and traces (lab/probes/layers/perfetto.py).
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from lab.arrays import UNKNOWN, Integers, Rows
from lab.live import fields
from lab.log2_histogram import SLOTS, picture
from lab.probes.layers.head import NARROW, header
from lab.probes.layers.requests import LEGS, Kind, requests_of
from lab.probes.layers.stages import FATES, LAYERS, layers_ns
from lab.tcp import address_text, endpoint
from lab.units import MS, SECOND, duration_text

if TYPE_CHECKING:
    from lab.observation import Observed
    from lab.probes.layers.rows import Summary

PERCENTILES = (50, 90, 99)

MOST_PEERS = 10
"""Peers in the table of an interval."""

_BAR = 38  # characters of the waterfall's time axis: its lines have 80

USUALLY_NOTHING = ("application", "resend")
"""Layers that the waterfall of a request omits if they took no time."""

_HOSTS = (
    ("client", *["client"] * 3, "wire", *["server"] * 6),
    ("server", *["server"] * 3, "wire", *["client"] * 6),
)
"""Host of each layer, for the request and for the reply."""


def host_of(leg: int, layer: int) -> str:
    """Return `client`, `wire` or `server`: the host of a layer (index) of the request (0) or of the reply (1)."""
    return _HOSTS[leg][layer]


def as_dicts(rows: Rows) -> Iterator[dict[str, object]]:
    """Yield requests with the keys of `--json` and `--csv`; None for layers that were not observed."""
    columns = fields.heads("layers", rows["time_ns"]) | fields.ends(rows, client="c", server="s")
    columns["kind"] = fields.words(Kind, rows["kind"])
    for leg, name in enumerate(LEGS):
        columns |= {f"{name}_{field}": rows[field][:, leg].tolist() for field in ("bytes", "sent")}
        columns |= {
            f"{name}_{end}_ns": fields.times(rows["spans_ns"][:, leg, at]) for at, end in enumerate(("first", "last"))
        }
        columns |= _layers(rows["layers_ns"][:, leg], f"{name}_")
    columns |= {name: fields.times(rows[name]) for name in ("elsewhere_ns", "total_ns")}
    return fields.dictionaries(columns)


def segments_as_dicts(rows: Rows) -> Iterator[dict[str, object]]:
    """Yield segments with the keys of `--json` and `--csv`; None for layers that were not observed."""
    ends = fields.ends(rows, source="s", destination="d")
    columns = fields.heads("layers.segments", rows["time_ns"]) | ends
    columns |= {
        "netns": rows["netns"].tolist(),
        "seq": rows["seq"].tolist(),
        "length": rows["length"].tolist(),
        "fate": fields.looked_up(FATES, rows["fate"]),
        "read_length": fields.times(rows["read_length"]),
    }
    return fields.dictionaries(columns | _layers(layers_ns(rows["stops"])[:, 1:], ""))


def _layers(times: Integers, prefix: str) -> fields.Columns:
    """Return the columns of the layers: `times` has the shape (n, number of layers), of the last of `LAYERS`."""
    names = LAYERS[-times.shape[1] :]
    return {f"{prefix}{name}_ns": fields.times(times[:, layer]) for layer, name in enumerate(names)}


def line(row: dict[str, object]) -> str:
    """Return a request as two lines of the table, the request and the reply with the total; other rows as one line."""
    client = endpoint(str(row["client_address"]), str(row["client_port"]))
    if row["kind"] == "stretch":
        both = (f"{row[f'{leg}_bytes']} bytes in {_span(row, leg)} us" for leg in LEGS)
        return f"{client:<21} stretch {next(both)} to the server, {next(both)} to the client"
    lines = []
    for leg in LEGS:
        layers = "".join(f" {_us(row[f'{leg}_{name}_ns']):>8}" for name in LAYERS)
        lines.append(f"{row[f'{leg}_bytes']:>8}{layers}")
    total = f" {_us(row['elsewhere_ns']):>10} {_us(row['total_ns']):>10}"
    if row["kind"] == "push":
        return f"{client:<21} push    {lines[1]}{total}"
    name, first = "reply", ""
    if row["kind"] == "stream":
        name, first = "stream", f" first byte after {_us(_since(row['request_first_ns'], row['reply_first_ns']))}"
    return f"{client:<21} request {lines[0]}\n{'':<21} {name:<7} {lines[1]}{total}{first}"


def short_line(row: dict[str, object]) -> str:
    """Return a request as one line: its client, bytes and total, and the layers that took most of it."""
    if row["kind"] == "stretch":
        return line(row)
    client = endpoint(str(row["client_address"]), str(row["client_port"]))
    names = {f"{leg}_{name}_ns": f"{leg} {_dashed(name)}" for leg in LEGS for name in LAYERS}
    times = {
        name: ns for key, name in (names | {"elsewhere_ns": "elsewhere"}).items() if isinstance(ns := row[key], int)
    }
    slowest = sorted(times, key=lambda name: -times[name])[:3]
    sizes = f"{row['request_bytes']:>7} {row['reply_bytes']:>8}"
    kind = "" if row["kind"] == "request" else f"{row['kind']}: "
    layers = ", ".join(f"{name} {_ms(times[name])}" for name in slowest)
    return f"{client:<21} {sizes} {_ms(row['total_ns']):>9}  {kind}{layers}"


def _ms(ns: object) -> str:
    """Return a time in milliseconds with three digits, or all before the point."""
    if not isinstance(ns, int):
        return "-"
    return f"{ns / MS:.3g}ms" if ns < 100 * MS else f"{ns / MS:.0f}ms"


def line_for(columns: int | None) -> Callable[[dict[str, object]], str]:
    """Return the function that formats a request for a terminal of this width."""
    return short_line if columns and columns < NARROW else line


def _span(row: dict[str, object], leg: str) -> str:
    return _us(_since(row[f"{leg}_first_ns"], row[f"{leg}_last_ns"]))


def _since(first_ns: object, last_ns: object) -> int | None:
    return last_ns - first_ns if isinstance(first_ns, int) and isinstance(last_ns, int) else None


def packet_line(row: dict[str, object]) -> str:
    """Return a segment as one line of the table."""
    ends = (endpoint(str(row[f"{end}_address"]), str(row[f"{end}_port"])) for end in ("source", "destination"))
    layers = "".join(f" {_us(row[f'{name}_ns']):>8}" for name in LAYERS[1:])
    read, length = row["read_length"], row["length"]
    coalesced = f", read() returned {read}" if read not in (None, length) else ""
    return f"{next(ends):<21} {next(ends):<21} {row['seq']:>10} {length:>6}{layers} {row['fate']}{coalesced}"


def _us(ns: object) -> str:
    return f"{ns / 1000:.1f}" if isinstance(ns, int) else "-"


def summaries(rows: Rows, since_ns: int | None) -> "Iterator[Summary]":
    """Yield for each layer, in the order of the path, its percentiles and its share of the total: of all, then by peer.

    The rows are the requests since `since_ns`; None is the start of the tool. The peer is the other host, as seen from
    the one that was observed.
    """
    yield from summary(rows, since_ns)
    for peer, of_peer in by_peer(rows):
        yield from summary(of_peer, since_ns, peer)


def by_peer(rows: Rows) -> Iterator[tuple[str, Rows]]:
    """Yield the requests of each peer, those of the peer with most requests first.

    The peer is the client. If only clients were observed, it is the server.
    """
    if not len(rows):
        return
    peers = rows["caddr" if (rows["layers_ns"][:, 1, 0] != UNKNOWN).any() else "saddr"]
    names, group, counts = np.unique(peers, axis=0, return_inverse=True, return_counts=True)
    for number in np.argsort(-counts, kind="stable").tolist():
        yield address_text(names[number].tobytes()), rows[group.reshape(-1) == number]


def summary(rows: Rows, since_ns: int | None = None, peer: str | None = None) -> "Iterator[Summary]":
    """Yield for each layer, in the order of the path, its percentiles and its share of the total."""
    whole = int(rows["total_ns"].sum()) or 1
    columns = [
        (leg, layer, host_of(number, index), rows["layers_ns"][:, number, index])
        for number, leg in enumerate(LEGS)
        for index, layer in enumerate(LAYERS)
    ]
    columns += [("", "elsewhere", "", rows["elsewhere_ns"]), ("", "total", "", rows["total_ns"])]
    for leg, layer, host, times in columns:
        known = times[times != UNKNOWN]
        if not len(known):
            continue
        p50_ns, p90_ns, p99_ns = np.percentile(known, PERCENTILES, method="inverted_cdf").astype(np.int64).tolist()
        yield {
            **fields.head("layers.summary", time.monotonic_ns()),
            "since_ns": since_ns,
            "peer": peer,
            "leg": leg,
            "layer": layer,
            "host": host,
            "requests": len(known),
            "p50_ns": p50_ns,
            "p90_ns": p90_ns,
            "p99_ns": p99_ns,
            "max_ns": int(known.max()),
            "share": round(int(known.sum()) / whole, 4),
        }


def summary_lines(rows: Rows, since_ns: int | None = None, *, peers: bool = False) -> Iterator[str]:
    """Yield the percentiles of the layers as a table; with `peers` also those of the totals of each peer."""
    when = f" in {(time.monotonic_ns() - since_ns) / SECOND:.1f} s" if since_ns else ""
    if not len(rows):
        if since_ns:
            yield f"no requests{when}"
        return
    yield f"{len(rows)} request{'s' * (len(rows) != 1)}{when}, microseconds:"
    yield f"{'leg':<8} {'layer':<12} {'host':<7} {'p50':>10} {'p90':>10} {'p99':>10} {'max':>10} {'share':>7}"
    for row in summary(rows, since_ns):
        yield f"{row['leg']:<8} {_dashed(row['layer']):<12} {row['host']:<7}{_figures(row)} {row['share']:>7.1%}"
    if peers:
        yield f"{'peer':<15} {'requests':>8} {'p50':>10} {'p90':>10} {'p99':>10} {'max':>10} mostly in"
        for peer, of_peer in islice(by_peer(rows), MOST_PEERS):
            *layers, total = summary(of_peer, since_ns, peer)
            most = max(layers, key=lambda row: row["share"])
            where = f"{most['leg']} {_dashed(most['layer'])}".strip()
            yield f"{peer:<15} {len(of_peer):>8}{_figures(total)} {where} ({most['share']:.0%})"
        if (more := len(np.unique(rows["caddr"], axis=0)) - MOST_PEERS) > 0:
            yield f"... and {more} more peers (--json has all)"


def _figures(row: "Summary") -> str:
    return "".join(f" {_us(ns):>10}" for ns in (row["p50_ns"], row["p90_ns"], row["p99_ns"], row["max_ns"]))


def _dashed(layer: str) -> str:
    return layer.replace("_", "-")


def histograms(rows: Rows) -> Iterator[str]:
    """Yield a histogram of each layer that took time in any request."""
    for leg, name in enumerate(LEGS):
        for layer, what in enumerate(LAYERS):
            times = rows["layers_ns"][:, leg, layer]
            times = times[times != UNKNOWN]
            if times.any():
                yield f"\n{name}, {what.replace('_', '-')} ({host_of(leg, layer)})"
                yield from picture(counts(times).tolist(), "nsecs", whole=False)


def counts(times: Integers) -> Integers:
    """Return the number of times in each slot of `lab.log2_histogram`."""
    slots = np.minimum(np.log2(np.maximum(times, 1)).astype(int), SLOTS - 1)
    return np.bincount(slots, minlength=SLOTS)


def typical(rows: Rows) -> np.void:
    """Return the request with the median total time. Raises `ValueError` if there are no requests."""
    if not len(rows):
        raise ValueError("`rows` has no requests, so there is no typical one")
    return rows[np.argsort(rows["total_ns"], kind="stable")[len(rows) // 2]]


def waterfall(row: np.void) -> Iterator[str]:
    """Yield a request as text: a line for each layer, with a bar on a common time axis."""
    client = endpoint(address_text(row["caddr"].tobytes()), int(row["cport"]))
    server = endpoint(address_text(row["saddr"].tobytes()), int(row["sport"]))
    asked, answered = row["bytes"].tolist()
    total_ns = int(row["total_ns"])
    yield f"{client} asks {server}: {asked} bytes, {answered} back, in {duration_text(total_ns)}"
    for leg, name in enumerate(LEGS):
        stops, times = row["stops"][leg], row["layers_ns"][leg]
        for layer, what in enumerate(LAYERS):
            if times[layer] == UNKNOWN or (what in USUALLY_NOTHING and not times[layer]):
                continue
            begin, end = (int(stop) - int(row["time_ns"]) for stop in (stops[layer], stops[layer + 1]))
            label = f"{name:<7} {host_of(leg, layer):<6} {what.replace('_', '-'):<11}"
            yield f"{label} {_us(end - begin):>9} us |{_bar(begin, end, total_ns)}|"
    if row["elsewhere_ns"]:
        yield f"{'':<7} {'':<6} {'elsewhere':<11} {_us(int(row['elsewhere_ns'])):>9} us"


def _bar(begin_ns: int, end_ns: int, total_ns: int) -> str:
    """Return a bar on an axis of `_BAR` characters; a dot if it is shorter than one character."""
    first, last = (time_ns * _BAR // max(1, total_ns) for time_ns in (begin_ns, end_ns))
    first = min(first, _BAR - 1)
    drawn = "*" * (last - first) or "."
    return f"{' ' * first}{drawn}".ljust(_BAR)


def table(observed: "Observed") -> Iterator[str]:
    """Yield the table that the live tool would have printed for both hosts."""
    yield header()
    yield from map(line, as_dicts(requests_of(observed)))
