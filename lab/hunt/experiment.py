"""One experiment: a network, conversations on it, the probes that watch, and the load beside them; and holding it.

An experiment is plain data, so that it can be written to a file, shrunk, and repeated.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lab import probes
from lab.errors import EventsWithheld, FramesDropped, LabError, UnsupportedByKernel
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import Topology, topology
from lab.observation import observe
from lab.output.file import replacing
from lab.plain_view import as_plain
from lab.results import schema
from lab.traffic.demo.conversation import Conversation
from lab.verdict import Check

UNSEEN = {"splice": ("layers",), "messages": ("layers",), "io_uring": ("layers", "analyse")}
"""By way to send and receive, the probes that do not see its system calls: they say so and cannot be judged by them."""

_SCENARIO = "hunt"
_BUSY = "while True: pass"


@dataclass(frozen=True)
class Wire:
    """The conditions of a wire that keeps a log, in each direction."""

    to_server: Conditions = field(default_factory=Conditions)
    to_client: Conditions = field(default_factory=Conditions)


@dataclass(frozen=True)
class Experiment:
    """What is held and observed.

    - `version`: of IP.
    - `network`: its name (`NETWORKS`).
    - `wire`: the conditions of the network's wire, which keeps a log then. None leaves it a bridge, without a log.
    - `busy`: number of processes that do nothing but use a processor meanwhile.
    - `watched_by`: names of the attached probes, sorted.
    """

    conversation: Conversation
    connections: int
    concurrency: int
    version: int
    wire: Wire | None
    busy: int
    watched_by: tuple[str, ...]
    network: str = "wire"

    def write(self, path: Path) -> None:
        """Write the experiment as JSON, to be repeated by `lab hunt --replay`."""
        with replacing(path, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @classmethod
    def read(cls, path: Path) -> "Experiment":
        """Read an experiment. Raises `LabError` if the file is not one."""
        experiment = schema.read(path, msgspec.json.Decoder(cls).decode, "give a file that lab hunt has written")
        if unknown := set(experiment.watched_by) - set(probes.names()):
            raise LabError(
                f"{path} names the probe {min(unknown)}, which this lab does not have: use the lab that wrote it"
            )
        return experiment


class Grounds:
    """The networks of a hunt, each built when an experiment first needs it."""

    def __init__(self, built: ExitStack) -> None:
        self._built = built
        self._nets: dict[tuple[str, bool], Topology] = {}
        self._refused: set[str] = set()

    def net(self, experiment: Experiment) -> Topology | None:
        """Return the network of an experiment, with its conditions; None if this kernel lacks one of its interfaces."""
        key = experiment.network, experiment.wire is not None
        if experiment.network in self._refused:
            return None
        if key not in self._nets:
            link = Relay() if experiment.wire else None
            try:
                self._nets[key] = self._built.enter_context(topology(link, network=experiment.network))
            except UnsupportedByKernel:
                self._refused.add(experiment.network)
                return None
        if experiment.wire:
            self._nets[key].conditions(experiment.wire.to_server, experiment.wire.to_client)
        return self._nets[key]

    def hold(self, experiment: Experiment) -> list[Check] | None:
        """Hold an experiment and return every check of every probe; None if it cannot be judged.

        That is so if the kernel withheld events or dropped frames, which the probes say, or lacks what the network needs.
        """
        if (net := self.net(experiment)) is None:
            return None
        left_out = UNSEEN.get(experiment.conversation.way, ())
        watched_by = [name for name in experiment.watched_by if name not in left_out]
        try:
            with (
                _busy(experiment.busy),
                observe(
                    net,
                    experiment.conversation,
                    probes=watched_by,
                    connections=experiment.connections,
                    concurrency=experiment.concurrency,
                    version=experiment.version,
                ) as observed,
            ):
                pass
        except (EventsWithheld, FramesDropped):
            return None
        seen = as_plain(observed, net)
        return [check for name in watched_by for check in probes.judge(name, seen, _SCENARIO)]


@contextmanager
def grounds() -> Iterator[Grounds]:
    """Yield the networks of a hunt, and remove them at the end."""
    with ExitStack() as built:
        yield Grounds(built)


@contextmanager
def _busy(count: int) -> Iterator[None]:
    with ExitStack() as running:
        for _ in range(count):
            process = running.enter_context(subprocess.Popen([sys.executable, "-S", "-c", _BUSY]))
            running.callback(process.kill)
        yield
