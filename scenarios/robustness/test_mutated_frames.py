"""Frames that nothing sends: whatever is in them, the programs at XDP and TC read no more than the frame and let it pass.

`--rounds N` sets the number of frames: N thousand for each program at XDP or TC (`make torture`: a million in all). The frames are
seeded.
"""

import errno
import random

import pytest

from lab import probes
from lab.ebpf.program import Program
from lab.linux.bpf import prog_test_run
from lab.paths import SOURCES
from lab.traffic.crafted.unusual_frames import unusual

LEAST, MOST = 60, 1500  # bytes: BPF_PROG_TEST_RUN wants whole headers for TC
CONTINUE = 2**32 - 1  # TC_ACT_UNSPEC, -1: the next program decides
PASSES = {"packets": 2, "flows": CONTINUE, "duration": CONTINUE}  # 2: XDP_PASS
FRAMES = 1000
ALL = 0


def mutated(draw, frames):
    """Return a frame with some bytes changed, a part of another frame inside, or another length."""
    data = bytearray(draw.choice(frames))
    for _ in range(draw.randrange(1, 6)):
        at = draw.randrange(len(data))
        how = draw.randrange(4)
        if how == 0:
            data[at] = draw.randrange(256)
        elif how == 1:  # in the headers, where lengths and types are
            data[draw.randrange(12, min(70, len(data)))] = draw.choice((0, 1, 4, 5, 6, 17, 0x45, 0x7F, 0xFF))
        elif how == 2:
            other = draw.choice(frames)
            data[at:at] = other[draw.randrange(len(other)) :][:64]
        else:
            data = data[:at]
        data = data.ljust(LEAST, b"\0")[:MOST]
    return bytes(data)


@pytest.mark.parametrize("name", PASSES)
def test_mutated_frames(request, name):
    """Each passes unchanged, and is counted once: no frame has more bytes or payload than it has."""
    probes.require(name)
    draw = random.Random(name)  # noqa: S311 (no secret)
    frames = [frame.data for frame in unusual() if LEAST <= len(frame.data) <= MOST]
    program = Program(SOURCES / f"{name}.c", [f"PORT={ALL}"])
    for _ in range(request.config.getoption("--rounds")):
        length = ran = 0
        for _ in range(FRAMES):
            data = mutated(draw, frames)
            for fd in program.fds:
                try:
                    verdict, after = prog_test_run(fd, data)
                except OSError as error:
                    if error.errno != errno.EINVAL:  # at TC the kernel wants a whole IP header before it runs a program
                        raise
                    continue
                assert verdict == PASSES[name], data.hex()
                assert after == data, data.hex()
                ran, length = ran + 1, length + len(data)
        assert ran > FRAMES / 2
        if name == "flows":
            totals = program.take_totals()
            # The test runs are on the loopback interface, whose packets are counted at egress and not again at ingress.
            assert (2 * totals["packets"].sum(), 2 * totals["bytes"].sum()) == (ran, length)
            assert 2 * totals["payload_bytes"].sum() <= length
        if name == "packets":
            rows = program.ring.drain()
            assert len(rows) <= ran
            assert (rows["payload_length"] <= rows["frame_length"]).all()
