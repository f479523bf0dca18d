"""The ends of a guest, with a shell script in its place: finished, panicked, exited early, hung."""

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
class ScriptedGuest(Machine):
    """A shell script in place of a guest. `$1` is the command that a guest would run, without the mounts."""

    script: str = ""

    def command(self, _kernel, script, _here, _writable):
        """Run the script."""
        return ["/bin/sh", "-c", self.script, "sh", f"sed -i '/^set -e/,/^set +e/d' {script}; sh {script}"]


def run(tmp_path, script, limit_s=20, command=("echo", "output")):
    shown = []
    status = machine.run(
        ScriptedGuest(script=f"echo $$ >{tmp_path}/pid; {script}"),
        KERNEL,
        command,
        folder=tmp_path / "vm",
        here=tmp_path,
        writable=tmp_path,
        limit_s=limit_s,
        show=shown.append,
    )
    return status, "".join(shown)


def is_gone(tmp_path, name="pid"):
    pid = int((tmp_path / name).read_text())
    return not Path(f"/proc/{pid}").exists() and pid != os.getpid()


@pytest.mark.parametrize(("command", "status"), [(("echo", "output"), 0), (("sh", "-c", "echo output; exit 3"), 3)])
def test_a_command_that_finishes(tmp_path, command, status):
    """The exit status and the output are those of the command in the guest."""
    assert run(tmp_path, 'eval "$1"', command=command) == (status, "output\n")


def test_a_guest_that_does_not_power_off_is_killed(tmp_path, monkeypatch):
    """The command has ended, so the guest is killed after a short wait."""
    monkeypatch.setattr(machine, "_POWER_OFF_S", 0.1)
    assert run(tmp_path, 'eval "$1"; exec sleep 60') == (0, "output\n")
    assert is_gone(tmp_path)


def test_a_panic_is_reported_at_once(tmp_path):
    """The error has the start of the panic, not the end of a long trace. No process is left."""
    panic = "echo '[1] Kernel panic - not syncing: why'; seq -f 'trace %g' 90; echo '[2] ---[ end Kernel panic ]---'"
    before_s = time.monotonic()
    with pytest.raises(
        LabError, match=r"^kernel 6.1 panicked:\n\[1\] Kernel panic - not syncing: why\ntrace 1\n"
    ) as raised:
        run(tmp_path, f"echo booting; {panic}; exec sleep 60", 50)
    assert time.monotonic() - before_s < 50
    assert "booting" not in str(raised.value)
    assert str(tmp_path / "vm" / "console.log") in str(raised.value)
    assert is_gone(tmp_path)


def test_a_guest_that_exits_early(tmp_path):
    """The error has the end of the console."""
    with pytest.raises(LabError, match=r"ended before its command did:\nno root file system"):
        run(tmp_path, "echo no root file system")


def test_a_guest_that_hangs(tmp_path):
    """The guest is killed at the limit, and the error has the end of the console."""
    with pytest.raises(LabError, match=r"did not finish within 0.3 s:\nbooting"):
        run(tmp_path, "echo booting; exec sleep 60", 0.3)
    assert is_gone(tmp_path)


def test_a_guest_ends_with_a_lab_that_is_killed(tmp_path, monkeypatch):
    """QEMU dies with a killed lab, also if QEMU is a child of the process that the lab started."""
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
