"""BCC's own tools. They compile at start, against the bench's header tree, so they need no kernel headers."""

from collections.abc import Mapping

from lab.bench import peer_headers
from lab.bench.tools import DURATION, FLOWS, RTT, SEGMENTS, STATES, Tool
from lab.bench.tools.libbpf import by_lport, by_rport, lives, nothing, round_trips, states
from lab.linux.instance import Instance


def _environment() -> Mapping[str, str]:
    return peer_headers.write_tree(Instance.current().path / "peer-headers")


TOOLS = (
    Tool(
        "bcc tcpstates",
        STATES,
        lambda scope: ["tcpstates-bpfcc", "-w", *by_lport(scope)],
        states,
        ready="SKADDR",
        environment=_environment,
    ),
    Tool(
        "bcc tcplife",
        DURATION,
        lambda _: ["tcplife-bpfcc", "-w"],
        lives,
        ready="LADDR",
        unit_ns=10_000,
        environment=_environment,
    ),
    Tool(
        "bcc tcprtt",
        RTT,
        lambda scope: ["tcprtt-bpfcc", "-B", "-e", *by_rport(scope)],
        round_trips,
        SEGMENTS,
        ready="Tracing",
        environment=_environment,
    ),
    Tool("bcc tcptop", FLOWS, lambda _: ["tcptop-bpfcc", "-C"], nothing, ready="Tracing", environment=_environment),
)
