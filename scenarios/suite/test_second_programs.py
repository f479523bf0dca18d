"""Second programs report what the kernel withholds from the first: here it withholds everything, and all numbers are right."""

import itertools

import pytest
from support.mutants import changed

from lab import probes
from lab.errors import EventsWithheld
from lab.linux.bpf import recursion_misses
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.observation import observe
from lab.paths import SOURCES
from lab.traffic.demo.conversation import Conversation

SILENT = (
    r"^( +)(?:first_run\((EVENT\(\w+\)),|note_run\((?!point))[^;]*;",
    lambda found: f"{found[1]}{f'runs.increment({found[2]}); ' if found[2] else ''}return 0;",
)
"""First programs do not note an event and do not report it. Those that count their runs still do."""

WITH_SECOND = sorted(
    path.stem for path in SOURCES.glob("*.c") if "second_run.h" in path.read_text() and path.stem in probes.names()
)


@pytest.fixture(scope="module")
def net():
    """Two hosts and a wire."""
    with topology(Relay()) as net:
        yield net


@pytest.mark.parametrize("probe", WITH_SECOND)
def test_every_first_program_is_withheld(lab, tmp_path, probe):
    """Each number is that of a second program."""
    probes.require(probe)
    program = changed(tmp_path, probe, SILENT)
    # The SYN, a segment of the client and the SYN-ACK are lost.
    lab.net.conditions(Conditions(drop=(1, 4)), Conditions(drop=(1,)))
    with observe(
        lab.net, Conversation(exchanges=2), programs={probe: program}, devices=lab.net.devices, connections=2
    ) as observed:
        pass
    second = itertools.compress(program.fds, program.again)
    if missed := sum(map(recursion_misses, second)):  # no other program stands in for a second one here
        raise EventsWithheld({probe: missed})
    lab.judge(probe, observed)
    assert program.maps["rescued"].number() > 0
