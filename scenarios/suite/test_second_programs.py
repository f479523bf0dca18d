"""Second programs report what the kernel withholds from the first: here it withholds everything, and all numbers are right."""

import re

import pytest
from support.mutants import changed

from lab import probes
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.observation import observe
from lab.paths import SOURCES
from lab.traffic.demo.conversation import Conversation

SILENT = (
    (r"^(    (?:    )?)first_run\((EVENT\(\w+\)), [^;]*;", r"\1runs.increment(\2);\n\1return 0;"),
    (r"^(    (?:    )?)note_run\((?!point)[^;]*;", r"\1return 0;"),
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
    text = "".join(path.read_text() for path in (SOURCES / f"{probe}.c", *(SOURCES / probe).glob("*.h")))
    program = changed(tmp_path, probe, *(it for it in SILENT if re.search(it[0], text, re.MULTILINE)))
    if why := probes.refusal(probe):
        pytest.skip(why)
    # The SYN, a segment of the client and the SYN-ACK are lost.
    lab.net.conditions(Conditions(drop=(1, 4)), Conditions(drop=(1,)))
    with observe(
        lab.net, Conversation(exchanges=2), programs={probe: program}, devices=lab.net.devices, connections=2
    ) as observed:
        pass
    lab.judge(probe, observed)
    assert program.maps["rescued"].number() > 0
