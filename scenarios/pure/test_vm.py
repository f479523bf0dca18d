"""Kernels by name, guests by command line, matrices by checks: what needs no guest to be known."""

from dataclasses import replace
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.verdict import Bracket, Judge
from lab.vm import archive, lane, machine
from lab.vm.lane import Outcome
from lab.vm.machine import Kernel, Machine

pytestmark = pytest.mark.rootless
KERNEL = Kernel("6.1", Path("/boot/vmlinuz-6.1.0-9-amd64"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Keep kernels in a folder of the test's own, which no archive fills."""
    monkeypatch.setattr(archive, "CACHE", tmp_path)
    return tmp_path / "kernels"


@pytest.mark.parametrize(
    ("name", "found"),
    [("6.1", "6.1.0-50-amd64"), ("6.1.0-9", "6.1.0-9-amd64"), ("6.12", "6.12.5-amd64"), ("6", "6.12.5-amd64")],
)
def test_a_kernel_that_was_unpacked_before(cache, name, found):
    """The newest of those whose version begins so, number by number: 6.1 is not 6.12, and 50 comes after 9."""
    for release in ("6.1.0-9-amd64", "6.1.0-50-amd64", "6.12.5-amd64"):
        (cache / release).mkdir(parents=True)
    assert archive.unpacked(name) == cache / found


@pytest.mark.parametrize("place", ["boot/vmlinuz-6.1", "usr/lib/modules/6.1/vmlinuz"])
def test_where_packages_keep_the_image(tmp_path, place):
    """Debian's older packages have it in /boot, the newer ones beside the modules."""
    image = tmp_path / place
    image.parent.mkdir(parents=True)
    image.touch()
    assert Kernel.within("6.1", tmp_path) == Kernel("6.1", image)


def test_a_folder_without_a_kernel(tmp_path):
    """One sentence that says what to do."""
    with pytest.raises(LabError, match=r"has 0 kernels: remove it"):
        Kernel.within("6.1", tmp_path)


def test_the_virtual_clock_has_one_processor():
    """Guest time is counted instructions: no other processor can run beside, and none of it in hardware."""
    words = Machine("virtual", cpus=4, kvm=True).command(KERNEL, "true", [])
    assert words[words.index("--cpus") + 1] == "1"
    assert "--disable-kvm" in words
    assert words[-2:] == ["-icount", "shift=0,sleep=off"]
    assert "--disable-kvm" not in Machine("real", kvm=True).command(KERNEL, "true", [])


@pytest.mark.parametrize("hidden", ["/tmp/checkout", "/run/x", "/var/tmp/x"])  # noqa: S108 (a guest's own)
def test_what_a_guest_cannot_see(hidden, tmp_path):
    """A checkout in a folder that the guest has for itself is refused before anything is booted."""
    with pytest.raises(LabError, match="move it elsewhere"):
        machine.run(Machine(), KERNEL, ["true"], folder=tmp_path, here=Path(hidden), limit_s=1, show=print)


def outcome(way, *measured, places="fentry:tcp_recvmsg, fentry:tcp_sendmsg"):
    judge = Judge("scenario", "rtt", places)
    checks = [judge.count("flow", "RTT samples", Bracket(1, 3, 2), it) for it in measured]
    return Outcome("6.1", way, 0, None, checks)


def test_the_matrix_has_a_cell_for_each_kernel_and_way():
    """How many checks are right, and how the probe was attached; what is wrong is counted."""
    table = lane.table(
        [outcome("fentry", 1, 2), replace(outcome("tracepoint", 2, 9, places="raw tracepoint:x"), kernel="7.2")]
    )
    head, _, *rows = table.splitlines()
    assert [column.strip() for column in head.split("  ") if column] == ["check", "6.1, fentry", "7.2, tracepoint"]
    assert "2 right" in rows[0]
    assert "1 of 2 wrong" in rows[0]
    assert "fentry" in rows[1]
    assert "raw tracepoint" in rows[1]


def test_a_lane_forces_each_way():
    """Each run gets its way of attaching and its clock, and says how it ended."""
    script = lane.script(["best", "kprobe"], "virtual", ["scenarios/test_exact.py", "-k", "not slow"])
    runs = [line for line in script.splitlines() if "pytest" in line]
    assert len(runs) == 2
    assert "LAB_ATTACH" not in runs[0]
    assert "LAB_ATTACH=kprobe" in runs[1]
    assert all("LAB_CLOCK=virtual" in run and run.endswith("scenarios/test_exact.py -k 'not slow'") for run in runs)


def test_what_a_guest_has_printed(tmp_path):
    """A run's results are those that it names; one that ended before it had any has none."""
    judge = Judge("scenario", "rtt", "fentry:x")
    (tmp_path / "checks.jsonl").write_text(judge.count("flow", "RTT samples", Bracket(1, 3, 2), 2).to_json() + "\n")
    printed = f"...\nresults: {tmp_path}\n1 passed\n--- lab vm: fentry 0\nno BCC\n--- lab vm: kprobe 2\n"
    first, second = lane.outcomes("6.1", printed)
    assert (first.way, first.passed, first.results, len(first.checks)) == ("fentry", True, tmp_path, 1)
    assert (second.way, second.passed, second.results, second.checks) == ("kprobe", False, None, [])
