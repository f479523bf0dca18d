"""How a guest ends, with a shell script in its place: done, panicked, gone too early, never done."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.bench.forked import forked
from lab.errors import LabError
from lab.vm import machine
from lab.vm.machine import Kernel, Machine

KERNEL = Kernel("6.1", Path("/boot/vmlinuz"))


@dataclass(frozen=True)
class Pretended(Machine):
    """A machine that is a shell script: `$1` is what a guest would have run, without the mounts."""

    script: str = ""

    def command(self, _kernel, script, _here, _writable):
        """Run the script."""
        return ["/bin/sh", "-c", self.script, "sh", f"sed -i '/^set -e/,/^set +e/d' {script}; sh {script}"]


def run(tmp_path, script, limit_s=20, command=("echo", "said")):
    said = []
    ended = machine.run(
        Pretended(script=f"echo $$ >{tmp_path}/pid; {script}"),
        KERNEL,
        command,
        folder=tmp_path / "vm",
        here=tmp_path,
        writable=tmp_path,
        limit_s=limit_s,
        show=said.append,
    )
    return ended, "".join(said)


def is_gone(tmp_path, name="pid"):
    pid = int((tmp_path / name).read_text())
    return not Path(f"/proc/{pid}").exists() and pid != os.getpid()


@pytest.mark.parametrize(("command", "status"), [(("echo", "said"), 0), (("sh", "-c", "echo said; exit 3"), 3)])
def test_a_command_comes_to_its_end(tmp_path, command, status):
    """Its exit status and its words are those that it had in the guest."""
    assert run(tmp_path, 'eval "$1"', command=command) == (status, "said\n")


def test_a_guest_that_does_not_power_off_is_ended(tmp_path, monkeypatch):
    """The command is done: nobody waits for more than a moment."""
    monkeypatch.setattr(machine, "_POWER_OFF_S", 0.1)
    assert run(tmp_path, 'eval "$1"; exec sleep 60') == (0, "said\n")
    assert is_gone(tmp_path)


def test_a_panic_is_told_at_once(tmp_path):
    """With what it began with, not with the end of a long trace; nothing is left running."""
    panic = "echo '[1] Kernel panic - not syncing: why'; seq -f 'trace %g' 90; echo '[2] ---[ end Kernel panic ]---'"
    before_s = time.monotonic()
    with pytest.raises(
        LabError, match=r"^kernel 6.1 panicked:\n\[1\] Kernel panic - not syncing: why\ntrace 1\n"
    ) as told:
        run(tmp_path, f"echo booting; {panic}; exec sleep 60", 50)
    assert time.monotonic() - before_s < 50
    assert "booting" not in str(told.value)
    assert str(tmp_path / "vm" / "console.log") in str(told.value)
    assert is_gone(tmp_path)


def test_a_guest_that_ends_too_early(tmp_path):
    """The end of its console tells why."""
    with pytest.raises(LabError, match=r"ended before its command did:\nno root file system"):
        run(tmp_path, "echo no root file system")


def test_a_guest_that_hangs(tmp_path):
    """It is given up at its limit."""
    with pytest.raises(LabError, match=r"was not done within 0.3 s:\nbooting"):
        run(tmp_path, "echo booting; exec sleep 60", 0.3)
    assert is_gone(tmp_path)


def test_a_guest_ends_with_a_lab_that_is_killed(tmp_path, monkeypatch):
    """Also where QEMU is not the process that was started, but one that this has started: it is neither's to end by then."""
    (qemu := tmp_path / "qemu-system-x86_64").write_text(f"#!/bin/sh\necho $$ >{tmp_path}/qemu; exec sleep 60")
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    lab = forked(run, tmp_path, f"{tmp_path}/vm/qemu & wait", 60)
    deadline_s = time.monotonic() + 20
    while not (tmp_path / "qemu").exists() or not (tmp_path / "qemu").read_text():
        assert time.monotonic() < deadline_s
    assert not is_gone(tmp_path, "qemu")
    lab.kill()
    lab.join()
    while not is_gone(tmp_path, "qemu"):
        assert time.monotonic() < deadline_s
