"""The tools that the bench measures: those that come with the lab (`lab/judging/tools`), grouped by kind."""

import subprocess

from lab.judging import description
from lab.judging.description import Description

STATES, DURATION, RTT, FLOWS, PACKETS, NATIVE = "states", "duration", "rtt", "flows", "packets", "packets, native XDP"
"""Kinds of tools, by their output. A tool is compared with others of its kind."""

KINDS = (STATES, DURATION, RTT, FLOWS, PACKETS)
"""The kinds that the bench measures everywhere. Native XDP is measured only where it can be attached."""

CHANGES, SEGMENTS = "inet_sock_set_state", "tcp_probe"
"""The tracepoints at which a tool's program runs. The program of other tools runs for a frame at an interface."""

_PACKAGES = ("libbpf-tools", "bpfcc-tools", "bpftrace", "tcpdump", "tshark")


def every() -> list[Description]:
    """Return the tools of all kinds that the bench measures: this project's, then the peers, each sorted by kind and name."""
    return [tool for tool in description.shipped() if tool.kind in (*KINDS, NATIVE) and tool.bench]


def of(*kinds: str) -> list[Description]:
    """Return the tools of these kinds."""
    return [tool for tool in every() if tool.kind in kinds]


def versions() -> dict[str, str]:
    """Return the versions of the installed packages of peers."""
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n", *_PACKAGES]
    output = subprocess.run(query, capture_output=True, encoding="utf-8", check=False).stdout
    return dict(line.split(maxsplit=1) for line in output.splitlines() if len(line.split()) == 2)
