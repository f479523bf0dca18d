"""One boot of a kernel under QEMU (virtme-ng) over this machine's own root file system, running one command to its end.

The guest sees the host's files, read only but for the folder that it is given. What it reads often, programs and the checkout, it
keeps in memory: each file is fetched once, which under emulation takes most of a run's time otherwise, and with a virtual clock
stalls it. What its command prints and its exit status come back through the folder; the console is for the kernel's own words,
which tell why a guest ended early.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lab.clock import REAL, VIRTUAL
from lab.errors import LabError

CLOCKS = (REAL, VIRTUAL)
# Guest time is counted instructions, one nanosecond each, and jumps over idle time. It needs a single processor, emulated.
_COUNTED = ["-icount", "shift=0,sleep=off"]
# All that QEMU can emulate but what QEMU 7.2 emulates wrongly: what gathers from memory by index (AVX2), as NumPy's argsort() does.
# And one processor at a time: what one translates while another patches it stays as it was before (until QEMU 8.1, which locks the
# page). Tracepoints come and go by such patches, and a processor that has read half of one goes round in it for ever.
_EMULATED = ["-cpu", "max,-avx2", "-accel", "tcg,thread=single"]
# What is woken on that processor runs at once, also amid somebody's system call, and callbacks of RCU are left to a thread: each
# could hold it for half a millisecond and more. Kernels that do not know the options pass them over.
_AT_ONCE = ("preempt=full", "rcutree.use_softirq=0")
# QEMU gives all its emulated processors one time stamp counter, which a kernel takes for several and does not trust. Time would be
# read from a device (HPET) instead, by one processor at a time: each packet and each event would wait for it.
_ONE_COUNTER = ("tsc=reliable",)
_DYING_WITH_ITS_PARENT = ("/usr/bin/setpriv", "--pdeathsig", "KILL")
# QEMU is a child of virtme-run's, which does not pass that on: so virtme-run is given this to run as QEMU.
_QEMU_NAME = "qemu"
_QEMU = f'#!/bin/sh\nexec {shlex.join(_DYING_WITH_ITS_PARENT)} qemu-system-x86_64 "$@"\n'
_CHANGED = ("/etc", "/lib", "/tmp", "/var")  # noqa: S108 (what is written there stays in the guest's memory)
_PROGRAMS = "bin sbin lib/python3* lib/*-linux-gnu*"  # below /usr, without the modules, which are the guest's own
_SCRATCH = "/run/tcp-truth-lab-vm"  # not where the lab keeps its runs
_WARNINGS = 5  # what the console is given of the kernel's words: warnings, and where a processor hangs
_LOOK_S = 0.1
_KVM_TRIAL_S = 8
_POWER_OFF_S = 10
_PANIC, _PANIC_END = "Kernel panic", "end Kernel panic"
_LAST_WORDS_S = 5
_STUCK = re.compile(r"soft lockup - CPU#\d+ stuck for (\d+)s")
_HUNG_S = 60  # a machine that does much else may stop a guest's processor for as long as the kernel warns of
_LAST_LINES = 30
_LINE_LENGTH = 160


@dataclass(frozen=True)
class Kernel:
    """What is booted: an image, with its modules where its package has them, under the name that the user gave."""

    name: str
    image: Path

    @classmethod
    def within(cls, name: str, folder: Path) -> "Kernel":
        """Find the image in a folder of unpacked packages."""
        images = [*folder.glob("boot/vmlinuz-*"), *folder.glob("usr/lib/modules/*/vmlinuz")]
        if len(images) != 1:
            raise LabError(f"{folder} has {len(images)} kernels: remove it, so that it is unpacked again")
        return cls(name, images[0])


@dataclass(frozen=True)
class Machine:
    """How the guest is made. `clock` is real, or virtual: with that, one processor and no hardware virtualization."""

    clock: str = REAL
    cpus: int = 2
    memory: str = "4G"
    kvm: bool = False

    def command(self, kernel: Kernel, script: Path, here: Path, writable: Path) -> list[str]:
        """Return the command line that boots a kernel, runs a shell script and powers off.

        The guest can write to `writable`, where the script is, and is given what it mounts (`_prepared`): its programs and `here`.
        """
        cpus = 1 if self.clock == VIRTUAL else self.cpus
        words = [str(Path(sys.executable).parent / "virtme-run"), "--kimg", str(kernel.image), "--mods", "auto"]
        words += ["--cpus", str(cpus), "--memory", self.memory, "--force-9p", "--show-boot-console"]
        words += ["--qemu-bin", str(script.with_name(_QEMU_NAME))]
        words += [f"--overlay-rwdir={folder}" for folder in _CHANGED]
        # A file, as what stands here goes through the kernel's command line, which is short: a longer one hangs the kernel.
        place = Path(_SCRATCH, "writable", script.relative_to(writable))
        words += [f"--rwdir={_SCRATCH}/writable={writable}", "--script-sh", f"sh {shlex.quote(str(place))}"]
        words += ["--disable-kvm"] if self.emulated else []
        options = _AT_ONCE if self.clock == VIRTUAL else _ONE_COUNTER if self.emulated else ()
        words += [word for option in options for word in ("--kopt", option)]
        words += ["--qemu-opts", *_exported("usr", Path("/usr")), *_exported("here", here)]
        words += _EMULATED if self.emulated else []
        return words + (_COUNTED if self.clock == VIRTUAL else [])

    @property
    def emulated(self) -> bool:
        """Whether every instruction is, for want of KVM or because they are counted."""
        return not self.kvm or self.clock == VIRTUAL

    @property
    def accelerator(self) -> str:
        """What runs the guest's instructions."""
        return "software emulation" if self.emulated else "KVM"


def run(
    machine: Machine,
    kernel: Kernel,
    command: list[str],
    *,
    folder: Path,
    here: Path,
    writable: Path,
    limit_s: float,
    show: Callable[[str], None],
) -> int:
    """Boot, run a command in the folder `here`, and return its exit status; `show` is given what it prints, as it comes.

    `folder`, somewhere in `writable`, receives `guest.sh`, which is run, `qemu`, which starts QEMU, `console.log`, `output.log` and
    `status`. Raises `LabError` with the end of the console when the guest panics, hangs, or ends before the command has; then nothing
    of it is left running.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script, output, status, console = (folder / it for it in ("guest.sh", "output.log", "status", "console.log"))
    status.unlink(missing_ok=True)
    output.write_text("")
    ended = f"{shlex.join(command)} >{shlex.quote(str(output))} 2>&1\necho $? >{shlex.quote(str(status))}\nsync\n"
    script.write_text(_prepared(here, writable) + ended)
    qemu = folder / _QEMU_NAME
    qemu.write_text(_QEMU)
    qemu.chmod(0o755)
    deadline, panicked_at = time.monotonic() + limit_s, None
    with _started(machine.command(kernel, script, here, writable), console) as process, output.open() as printed:
        while True:
            over = process.poll() is not None or status.exists()
            show(printed.read())
            if over:
                break
            words = console.read_text(errors="replace")
            panicked_at = panicked_at or (time.monotonic() if _PANIC in words else None)
            if panicked_at and (_PANIC_END in words or time.monotonic() > panicked_at + _LAST_WORDS_S):
                raise LabError(f"kernel {kernel.name} panicked:\n{_end_of(console)}")
            if any(int(stuck_s) >= _HUNG_S for stuck_s in _STUCK.findall(words)):
                raise LabError(f"kernel {kernel.name} hangs, a processor for {_HUNG_S} s and more:\n{_end_of(console)}")
            if time.monotonic() > deadline:
                raise LabError(f"kernel {kernel.name} was not done within {limit_s:g} s:\n{_end_of(console)}")
            time.sleep(_LOOK_S)
    if not status.exists() or not (told := status.read_text().strip()):
        raise LabError(f"kernel {kernel.name} ended before its command did:\n{_end_of(console)}")
    return int(told)


def kvm_works(kernel: Kernel) -> bool:
    """Find out whether hardware virtualization really works, by booting a kernel as far as it comes without a root file system."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    qemu = [
        "qemu-system-x86_64",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-m",
        "512",
        "-nographic",
        "-no-reboot",
        "-nodefaults",
    ]
    words = [*qemu, "-serial", "stdio", "-kernel", str(kernel.image), "-append", "console=ttyS0 panic=-1"]
    try:
        ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_KVM_TRIAL_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return _PANIC.encode() in ended.stdout  # for want of a root file system: it came that far


@contextmanager
def _started(command: list[str], console: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run QEMU in a session of its own, with its console in a file; it ends with the block, and with this process."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with console.open("wb") as log:
        try:
            process = subprocess.Popen(
                [*_DYING_WITH_ITS_PARENT, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PATH": path},
            )
        except FileNotFoundError as error:
            raise LabError(f"{error.filename} is missing: make vm sets up what virtual machines need") from error
    try:
        yield process
        # The command is done: a guest that does not power off is not waited for.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POWER_OFF_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _exported(tag: str, folder: Path) -> list[str]:
    """Return QEMU's options that let the guest mount a folder of the host by this tag, read only."""
    path = str(folder.resolve()).replace(",", ",,")
    export = f"local,id={tag},path={path},security_model=none,readonly=on,multidevs=remap"
    return ["-fsdev", export, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def _prepared(here: Path, writable: Path) -> str:
    """Return the shell commands by which a guest mounts what is exported, each folder where the host has it.

    Without udev nobody makes the node of tunnels, through which the kernel loads their module (`devices.txt`: misc, 200).
    """
    keeping = "mount -t 9p -o ro,version=9p2000.L,trans=virtio,access=any,msize=512000,cache=loose"
    place, results = shlex.quote(str(here)), shlex.quote(str(writable))
    return f"""\
echo {_WARNINGS} >/proc/sys/kernel/printk
set -e
[ -e /dev/net/tun ] || {{ mkdir -p /dev/net && mknod /dev/net/tun c 10 200; }}
mkdir -p {_SCRATCH}/usr {place}
{keeping} usr {_SCRATCH}/usr
{keeping} here {place}
cd {_SCRATCH}/usr
for folder in {_PROGRAMS}; do mount --bind $folder /usr/$folder; done
mkdir -p {results}
mount --bind {_SCRATCH}/writable {results}
cd {place}
set +e
"""


def _end_of(console: Path) -> str:
    """Return the last lines of a console, or what a panic or a hang begins with; the file has all of it."""
    lines = [line[:_LINE_LENGTH] for line in console.read_text(errors="replace").splitlines()]
    ends = (number for number, line in enumerate(lines) if _PANIC in line or _STUCK.search(line))
    begins = next(ends, len(lines) - _LAST_LINES)
    return "\n".join([*lines[max(0, begins) :][:_LAST_LINES], f"(all of it: {console})"])
