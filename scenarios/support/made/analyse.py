"""Events of the probe `analyse` made by hand: one line for each step of a connection."""

import numpy as np

from lab.probes.analyse.measure import Kind
from lab.tcp import Flow, State
from support.made.states import CLIENT, packed

_KINDS = {
    **dict.fromkeys(("time_ns", "enter_ns", "skaddr", "listener", "mptcp", "skb"), "u8"),
    **dict.fromkeys(("netns", "tgid", "tid", "seq", "length", "handshake_us", "lost"), "u4"),
    **dict.fromkeys(("lport", "rport"), "u2"),
    **dict.fromkeys(
        ("kind", "point", "returns", "again", "oldstate", "state", "flags", "called", "takes", "held"), "u1"
    ),
}
STEP = np.dtype(
    [*_KINDS.items(), ("result", "i4"), ("laddr", "u1", 16), ("raddr", "u1", 16), ("comm", "S16"), ("thread", "S16")]
)
"""As the probe writes it, in another order: only the names matter."""

UNBOUND = Flow("0.0.0.0", 0, "0.0.0.0", 0)  # noqa: S104 (an address that is not known yet)


def step(time_ns: int, kind: Kind, flow: Flow = CLIENT, skaddr: int = 0xA0, **fields) -> np.ndarray:
    """One event; `state` may be a name, `owner` sets tgid and tid."""
    row = np.zeros((), STEP)
    if owner := fields.pop("owner", 0):
        fields |= {"tgid": owner, "tid": owner, "comm": f"owner-{owner}"}
    known = {
        "time_ns": time_ns,
        "kind": kind,
        "skaddr": skaddr,
        "laddr": packed(flow.laddr),
        "raddr": packed(flow.raddr),
        "lport": flow.lport,
        "rport": flow.rport,
        "netns": 1,
        "called": 1,
    }
    for name, value in (known | fields).items():
        row[name] = State[value] if name in ("state", "oldstate") and isinstance(value, str) else value
    return row


def change(time_ns: int, states: str, flow: Flow = CLIENT, skaddr: int = 0xA0, **fields) -> np.ndarray:
    """One change of state: `change(5, "SYN_SENT -> ESTABLISHED")`."""
    old, new = states.split(" -> ")
    kind = Kind.OPENED if states == "CLOSE -> SYN_SENT" else Kind.CHANGED
    return step(time_ns, kind, flow, skaddr, oldstate=old, state=new, **fields)


def client(begin_ns: int = 100, owner: int = 7, skaddr: int = 0xA0) -> list[np.ndarray]:
    """Make a client's whole life: connects (40 ns to ESTABLISHED), is sent something, closes; 200 ns in all."""
    half = CLIENT._replace(laddr=UNBOUND.laddr, lport=0)
    call = {"owner": owner, "skaddr": skaddr}
    late = {"enter_ns": begin_ns, "returns": 1, **call}
    close = {"enter_ns": begin_ns + 170, "returns": 1, **call, "netns": 0, "laddr": 0, "raddr": 0}
    return [
        step(begin_ns, Kind.CONNECT, UNBOUND, state="CLOSE", **call),
        change(begin_ns + 10, "CLOSE -> SYN_SENT", half, skaddr),
        step(begin_ns + 30, Kind.ARRIVED, skaddr=skaddr, state="SYN_SENT"),
        change(begin_ns + 40, "SYN_SENT -> ESTABLISHED", skaddr=skaddr),
        step(begin_ns + 50, Kind.CONNECT, state="ESTABLISHED", **late),
        step(begin_ns + 100, Kind.ARRIVED, skaddr=skaddr, state="ESTABLISHED", seq=1, length=9),
        step(begin_ns + 170, Kind.CLOSE, state="ESTABLISHED", **call),
        change(begin_ns + 180, "ESTABLISHED -> CLOSE", skaddr=skaddr),
        step(begin_ns + 190, Kind.DESTROYED, skaddr=skaddr, state="CLOSE"),
        step(begin_ns + 200, Kind.CLOSE, UNBOUND, **close),
    ]


def steps(*rows: np.ndarray) -> np.ndarray:
    """Return the events as one array, in order of time."""
    array = np.stack(rows) if rows else np.zeros(0, STEP)
    return array[np.argsort(array["time_ns"], kind="stable")]
