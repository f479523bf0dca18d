"""Events that find no room in a full ring are counted: every event is recorded or counted as lost."""

from contextlib import ExitStack

import pytest
from support.mutants import changed

from lab import probes
from lab.arrays import in_order
from lab.choice import Choice
from lab.ebpf.program import Program
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.recording.recorder import record
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse

ONE_PAGE = (r"BPF_RINGBUF_OUTPUT\(events, \w+\)", "BPF_RINGBUF_OUTPUT(events, 1)")


@pytest.mark.parametrize("probe", ["states", "duration", "analyse", "layers"])
def test_a_small_ring(net, tmp_path, probe):
    """A second program with a ring of one page observes the same connections as the first."""
    small = changed(tmp_path, probe, ONE_PAGE)
    with record(probe, programs={"small": small}, devices=net.devices, lossy=True) as recorder:
        with converse(net, Conversation(exchanges=5), connections=200, concurrency=20):
            pass
        net.quiesce()
    recording = recorder.recording
    assert recording.lost[probe] == 0
    assert recording.lost["small"] > 0
    assert len(recording.events["small"]) + recording.lost["small"] == len(recording.events[probe])


@pytest.mark.parametrize("probe", ["drops", "packets", "retransmits"])
def test_a_ring_that_nobody_reads(tmp_path, probe):
    """A program with rings of one page has the events of another one, or counts them as lost."""
    probes.require(probe)
    count, defines = 64, ("AT_TC=1",)  # of XDP programs, an interface has one
    programs = [Program.load(probe, defines), changed(tmp_path, probe, ONE_PAGE, defines=defines)]
    with topology(Relay()) as net, ExitStack() as attached:
        for program in programs:
            attached.enter_context(program.attached(net.devices, Choice(netns=net.inodes)))
        if probe == "retransmits":
            first = Conditions(drop=tuple(range(1, count + 1)))  # every first SYN, and every first answer
            net.conditions(first, first)
        with converse(net, Conversation(), connections=count, concurrency=count, serve=probe != "drops"):
            pass
        net.quiesce()
        roomy, small = (len(program.ring.drain()) for program in programs)
        lost = [program.lost() for program in programs]
    assert lost == [0, roomy - small]
    assert roomy > small > 0


@pytest.mark.parametrize(("probe", "pages"), [("states", 1), ("analyse", 16)])
def test_each_event_tells_the_losses_before_it(net, tmp_path, probe, pages):
    """Nobody reads until events are lost: the first came before the losses, and later ones after all."""
    size = (r"BPF_RINGBUF_OUTPUT\(events, \w+\)", f"BPF_RINGBUF_OUTPUT(events, {pages})")
    program = changed(tmp_path, probe, size)
    with program.attached(net.devices, Choice(netns=net.inodes)):
        with converse(net, Conversation(), connections=50 * pages, concurrency=4):
            pass
        net.quiesce()
        lost, early = program.lost(), in_order(program.ring.drain())
        with converse(net, Conversation()):
            pass
        net.quiesce()
        late = program.ring.drain()
    assert early["lost"][0] == 0
    assert set(late["lost"].tolist()) == {lost}
    assert program.lost() == lost > 0
