"""Traffic under observation: what the probes recorded, beside what those who caused it know."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lab.demo.conversation import Conversation
from lab.demo.process import Demo, converse
from lab.recorder import record
from lab.recording import Recording
from lab.timeline import Connection
from lab.topology import Topology
from lab.verdict import Judge


@dataclass
class Observed:
    """Conversations, and what the probes recorded of them; complete at the end of the `observe` block.

    `inodes` are those of the client's and the server's network namespace, `end_ns` a time at which all of the connections were
    over (`Topology.quiesce`, nanoseconds on `CLOCK_MONOTONIC`).
    """

    inodes: tuple[int, int]
    recording: Recording = field(default_factory=lambda: Recording({}))
    connections: list[Connection] = field(default_factory=list)
    end_ns: int = 0
    demo: Demo = field(default_factory=Demo)

    def judge(self, scenario: str, probe: str) -> Judge:
        """Return the judge of one probe's numbers."""
        places = ", ".join(self.recording.attach_points[probe])
        return Judge(scenario, probe, places, self.recording.missing(probe))


@contextmanager
def observe(
    net: Topology,
    conversation: Conversation,
    *,
    probes: Sequence[str] = ("states",),
    lossy: bool = False,
    **how: Any,
) -> Iterator[Observed]:
    """Hold conversations (`how`: as for `lab.demo.process.converse`) with probes attached.

    Those that observe at interfaces are attached to both hosts' `eth0`. Inside the block the conversations are under way.
    """
    observed = Observed(net.inodes)
    with record(*probes, devices=net.devices, lossy=lossy) as recorder:
        with converse(net, conversation, **how) as observed.demo:
            yield observed
        observed.end_ns = net.quiesce()
    observed.recording, observed.connections = recorder.recording, observed.demo.connections
