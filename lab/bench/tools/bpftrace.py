"""Short bpftrace scripts, at tracepoints that every kernel has."""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator

from lab.bench.tools import DURATION, RTT, SEGMENTS, STATES, LifeRow, RttRow, Scope, StateRow, Tool
from lab.log2_histogram import slot_of
from lab.tcp import State

# BEGIN runs before the probes are attached. The timer first fires 0.1 s after it is attached; by then the others are.
_READY = 'interval:ms:100 /!@ready/ { @ready = 1; printf("ready\\n"); } '
_STATES = """\
tracepoint:sock:inet_sock_set_state /args->protocol == 6 %(filter)s/ {
    $spent = @last[args->skaddr] ? nsecs - @last[args->skaddr] : 0;
    if (args->family == 2) {
        printf("%%lx %%d %%s %%d %%s %%d %%d %%d %%lu\\n", args->skaddr, pid, ntop(args->saddr), args->sport,
            ntop(args->daddr), args->dport, args->oldstate, args->newstate, $spent);
    } else {
        printf("%%lx %%d %%s %%d %%s %%d %%d %%d %%lu\\n", args->skaddr, pid, ntop(args->saddr_v6), args->sport,
            ntop(args->daddr_v6), args->dport, args->oldstate, args->newstate, $spent);
    }
    @last[args->skaddr] = nsecs;
    if (args->newstate == 7) { delete(@last[args->skaddr]); }
}
END { clear(@last); }
"""
_LIVES = """\
tracepoint:sock:inet_sock_set_state /args->protocol == 6 && (args->newstate == 2 || args->newstate == 3)/ {
    @begin[args->skaddr] = nsecs;
}
tracepoint:sock:inet_sock_set_state /args->protocol == 6 && args->newstate == 7 && @begin[args->skaddr]/ {
    $lasted = nsecs - @begin[args->skaddr];
    if (args->family == 2) {
        printf("%s %d %s %d %lu\\n", ntop(args->saddr), args->sport, ntop(args->daddr), args->dport, $lasted);
    } else {
        printf("%s %d %s %d %lu\\n", ntop(args->saddr_v6), args->sport, ntop(args->daddr_v6), args->dport, $lasted);
    }
    delete(@begin[args->skaddr]);
}
END { clear(@begin); }
"""
# bpftrace cannot read the address in a sockaddr as a whole. It begins at byte 4 of a sockaddr_in, byte 8 of a
# sockaddr_in6.
_OCTETS = {
    family: ", ".join(f"args->daddr[{at}]" for at in range(begin, end))
    for family, begin, end in ((2, 4, 8), (10, 8, 24))
}
_RTT = "".join(
    f"tracepoint:tcp:tcp_probe /args->family == {family} %(filter)s/ {{\n"
    f"    @rtt{family}[{octets}] = hist(args->srtt);\n    @all{family}[{octets}] = stats(args->srtt);\n}}\n"
    for family, octets in _OCTETS.items()
)
_BUCKET = re.compile(r"^\[(\d+)([KMG]?)(?:, (?:\d+)[KMG]?\)|\]) +(\d+) ", re.MULTILINE)
_STATS = re.compile(r"^@all\d+\[([\d, ]+)\]: count (\d+), average \d+, total (\d+)", re.MULTILINE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def states(output: str) -> Iterator[StateRow]:
    """Parse the script's line for each state change."""
    for line in output.splitlines():
        words = line.split()
        if len(words) == 9:
            socket, pid, laddr, lport, raddr, rport, old, new, spent = words
            names = State(int(old)).name, State(int(new)).name
            yield StateRow(socket, int(pid), laddr, int(lport), raddr, int(rport), *names, int(spent))


def lives(output: str) -> Iterator[LifeRow]:
    """Parse the script's line for each connection."""
    for line in output.splitlines():
        words = line.split()
        if len(words) == 5:
            yield LifeRow(words[0], int(words[1]), words[2], int(words[3]), int(words[4]))


def round_trips(output: str) -> Iterator[RttRow]:
    """Parse the maps that bpftrace prints at its end: srtt in microseconds, by the peer's address."""
    slots: dict[str, Counter[int]] = {}
    for part in re.split(r"^@rtt\d+\[", output, flags=re.MULTILINE)[1:]:
        key, _, histogram = part.partition("]")
        found = _BUCKET.findall(histogram)
        slots[key] = Counter[int]()
        for low, unit, count in found:  # bpftrace has separate buckets for 0 and 1
            slots[key][slot_of(int(low) * _UNITS[unit])] += int(count)
    for key, count, total in _STATS.findall(output):
        address = str(ipaddress.ip_address(bytes(map(int, key.split(", ")))))
        yield RttRow(address, int(count), int(total) * 1000 / int(count), +slots.get(key, Counter[int]()))


def _script(text: str) -> list[str]:
    return ["bpftrace", "-q", "-e", _READY + text]


def _rtt(scope: Scope) -> list[str]:
    return _script(_RTT % {"filter": "" if scope.rport is None else f"&& args->dport == {scope.rport}"})


def _states(scope: Scope) -> list[str]:
    return _script(_STATES % {"filter": "" if scope.lport is None else f"&& args->sport == {scope.lport}"})


TOOLS = (
    Tool("bpftrace states", STATES, _states, states, ready="ready", unit_ns=1),
    Tool("bpftrace duration", DURATION, lambda _: _script(_LIVES), lives, ready="ready", unit_ns=1),
    Tool("bpftrace rtt", RTT, _rtt, round_trips, SEGMENTS, ready="ready"),
)
