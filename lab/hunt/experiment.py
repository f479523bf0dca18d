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
from lab.errors import EventsWithheld, FramesDropped, LabError
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import Topology, topology
from lab.observation import observe
from lab.output.file import replacing
from lab.results import schema
from lab.traffic.demo.conversation import Conversation
from lab.verdict import Check

_SCENARIO = "hunt"
_BUSY = "while True: pass"


@dataclass(frozen=True)
class Wire:
    """The conditions of a wire that keeps a log, in each direction."""

    to_server: Conditions = field(default_factory=Conditions)
    to_client: Conditions = field(default_factory=Conditions)


@dataclass(frozen=True)
class Experiment:
    """What is held and observed. Without a `wire` the hosts are joined by a bridge, which keeps no log.

    - `version`: of IP.
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
        self._nets: dict[bool, Topology] = {}

    def net(self, experiment: Experiment) -> Topology:
        """Return the network of an experiment, with its conditions."""
        relayed = experiment.wire is not None
        if relayed not in self._nets:
            self._nets[relayed] = self._built.enter_context(topology(*([Relay()] if relayed else [])))
        if experiment.wire:
            self._nets[relayed].conditions(experiment.wire.to_server, experiment.wire.to_client)
        return self._nets[relayed]

    def hold(self, experiment: Experiment) -> list[Check] | None:
        """Hold an experiment and return every check of every probe; None if the kernel withheld events or dropped frames.

        The numbers of such a recording are known to be incomplete, and the probes say so.
        """
        net = self.net(experiment)
        try:
            with (
                _busy(experiment.busy),
                observe(
                    net,
                    experiment.conversation,
                    probes=experiment.watched_by,
                    connections=experiment.connections,
                    concurrency=experiment.concurrency,
                    version=experiment.version,
                ) as observed,
            ):
                pass
        except (EventsWithheld, FramesDropped):
            return None
        return [check for name in experiment.watched_by for check in probes.judge(name, observed, _SCENARIO)]


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
