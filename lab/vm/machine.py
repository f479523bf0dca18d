"""One boot of a kernel under QEMU (virtme-ng), over this machine's own root file system, to run one command.

- The guest sees the host's files read-only, except for one writable folder.
- It caches programs and the checkout in memory, so each file is read once. Otherwise reading takes most of a run's time
  under emulation, and stalls the virtual clock.
- The command's output and exit status are files in the writable folder. The console has the kernel's messages, which
  explain why a guest ended early.
"""

import os
import re
import shlex
import shutil
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
from lab.linux.privileges import require_root
from lab.paths import CHECKOUT

CLOCKS = (REAL, VIRTUAL)
# Guest time is one nanosecond per instruction, and jumps over idle time. This needs a single, emulated processor.
_COUNTED = ["-icount", "shift=0,sleep=off"]
# QEMU 7.2 emulates AVX2's gather instructions wrongly, which NumPy's argsort() uses. Before QEMU 8.1, which locks the
# page, code that one thread translates while another patches it keeps its old translation. The kernel patches code to
# enable tracepoints; a processor that translated half of a patch loops forever. One thread avoids that.
_EMULATED = ["-cpu", "max,-avx2", "-accel", "tcg,thread=single"]
# On the virtual clock a woken thread preempts a system call at once, and RCU callbacks run in a thread. Either could
# otherwise hold the processor for half a millisecond or more. Kernels that do not know an option ignore it.
_PREEMPTIBLE = ("preempt=full", "rcutree.use_softirq=0")
# All emulated processors share one time stamp counter. The kernel assumes one per processor and does not trust it.
# Without this option it reads the time from a device (HPET), by one processor at a time, and every packet and event
# waits for that.
_TRUSTED_TSC = ("tsc=reliable",)
_DIE_WITH_PARENT = ("/usr/bin/setpriv", "--pdeathsig", "KILL")
# QEMU is a child of virtme-run, which does not pass the parent-death signal on. virtme-run starts this script as its
# QEMU.
_QEMU_NAME = "qemu"
_EMULATOR, _VIRTME = "qemu-system-x86_64", "virtme-run"
_SETUP = (
    "run make vm-setup"
    if CHECKOUT
    else "install the packages qemu-system-x86, busybox-static and kmod, and tcp-truth-lab[vm] by pip"
)
_QEMU = f'#!/bin/sh\nexec {shlex.join(_DIE_WITH_PARENT)} {_EMULATOR} "$@"\n'
_CHANGED = ("/etc", "/lib", "/tmp", "/var")  # noqa: S108 (writes stay in the guest's memory)
_PROGRAMS = "bin sbin lib/python3* lib/*-linux-gnu*"  # below /usr; not the modules, which are the guest's own
_SCRATCH = "/run/tcp-truth-lab-vm"  # differs from the folder of the lab's instances
_WARNINGS = 5  # printk level of the console: warnings, and traces of hung processors
_POLL_S = 0.1
_KVM_TRIAL_S = 8
_POWER_OFF_S = 10
_PANIC, _PANIC_END = "Kernel panic", "end Kernel panic"
_PANIC_LIMIT_S = 5  # for the rest of a panic's messages
_STUCK = re.compile(r"soft lockup - CPU#\d+ stuck for (\d+)s")
_HUNG_S = 60  # longer than the kernel's own warning: a busy host may stop a guest's processor for that long
_LAST_LINES = 30
_LINE_LENGTH = 160


@dataclass(frozen=True)
class Kernel:
    """A kernel's image, under the name that the user gave. virtme-run finds the modules of its package."""

    name: str
    image: Path

    @classmethod
    def within(cls, name: str, folder: Path) -> "Kernel":
        """Find the image in a folder of unpacked packages."""
        images = [*folder.glob("boot/vmlinuz-*"), *folder.glob("usr/lib/modules/*/vmlinuz")]
        if len(images) != 1:
            raise LabError(f"{folder} has {len(images)} kernels: remove it to unpack it again")
        return cls(name, images[0])


@dataclass(frozen=True)
class Machine:
    """Configuration of a guest. With the virtual clock it has one processor and no hardware virtualization."""

    clock: str = REAL
    cpus: int = 2
    memory: str = "4G"
    kvm: bool = False

    def command(self, kernel: Kernel, script: Path, here: Path, writable: Path) -> list[str]:
        """Return the command line that boots a kernel, runs a shell script and powers off.

        The guest can write to `writable`, which contains the script. QEMU exports `/usr` and `here`, which the script
        mounts.
        """
        cpus = 1 if self.clock == VIRTUAL else self.cpus
        command = [str(Path(sys.executable).parent / _VIRTME), "--kimg", str(kernel.image), "--mods", "auto"]
        command += ["--cpus", str(cpus), "--memory", self.memory, "--force-9p", "--show-boot-console"]
        command += ["--qemu-bin", str(script.with_name(_QEMU_NAME))]
        command += [f"--overlay-rwdir={folder}" for folder in _CHANGED]
        # Pass a file: virtme-run puts the text into the kernel's command line, and too long a line hangs the kernel.
        place = Path(_SCRATCH, "writable", script.relative_to(writable))
        command += [f"--rwdir={_SCRATCH}/writable={writable}", "--script-sh", f"sh {shlex.quote(str(place))}"]
        command += ["--disable-kvm"] if self.emulated else []
        options = _PREEMPTIBLE if self.clock == VIRTUAL else _TRUSTED_TSC if self.emulated else ()
        command += [word for option in options for word in ("--kopt", option)]
        command += ["--qemu-opts", *_exported("usr", Path("/usr")), *_exported("here", here)]
        command += _EMULATED if self.emulated else []
        return command + (_COUNTED if self.clock == VIRTUAL else [])

    @property
    def emulated(self) -> bool:
        """Return true if QEMU emulates every instruction: without KVM, or with the virtual clock."""
        return not self.kvm or self.clock == VIRTUAL

    @property
    def accelerator(self) -> str:
        """Name of the accelerator, for messages."""
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
    """Boot, run a command in the folder `here`, and return its exit status. `show` receives the output piece by piece.

    `folder`, inside `writable`, receives `guest.sh` (the script), `qemu` (starts QEMU), `console.log`, `output.log` and
    `status`.

    Raises `LabError` with the end of the console if the guest panics, hangs, exceeds `limit_s`, or ends before the
    command does. All processes of the guest are killed first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script, output, status, console = (folder / it for it in ("guest.sh", "output.log", "status", "console.log"))
    status.unlink(missing_ok=True)
    output.write_text("", encoding="utf-8")
    recorded = f"{shlex.join(command)} >{shlex.quote(str(output))} 2>&1\necho $? >{shlex.quote(str(status))}\nsync\n"
    script.write_text(_mount_commands(here, writable) + recorded, encoding="utf-8")
    qemu = folder / _QEMU_NAME
    qemu.write_text(_QEMU, encoding="utf-8")
    qemu.chmod(0o755)
    deadline, panicked_at = time.monotonic() + limit_s, None
    with (
        _started(machine.command(kernel, script, here, writable), console) as process,
        output.open(encoding="utf-8", errors="replace") as printed,
    ):
        while True:
            ended = process.poll() is not None or status.exists()
            show(printed.read())
            if ended:
                break
            messages = console.read_text(encoding="utf-8", errors="replace")
            panicked_at = panicked_at or (time.monotonic() if _PANIC in messages else None)
            if panicked_at and (_PANIC_END in messages or time.monotonic() > panicked_at + _PANIC_LIMIT_S):
                raise LabError(f"kernel {kernel.name} panicked:\n{_end_of(console)}")
            if any(int(stuck_s) >= _HUNG_S for stuck_s in _STUCK.findall(messages)):
                raise LabError(f"kernel {kernel.name}: a processor hung for {_HUNG_S} s or more:\n{_end_of(console)}")
            if time.monotonic() > deadline:
                raise LabError(f"kernel {kernel.name} did not finish within {limit_s:g} s:\n{_end_of(console)}")
            time.sleep(_POLL_S)
    if not status.exists() or not (written := status.read_text(encoding="utf-8").strip()):
        raise LabError(f"kernel {kernel.name} ended before its command did:\n{_end_of(console)}")
    return int(written)


def require_guests() -> None:
    """Raise `LabError` unless guests can be started: by root, with QEMU and virtme-ng."""
    require_root()
    for program in (_EMULATOR, _VIRTME):
        if shutil.which(program, path=search_path()) is None:
            raise LabError(f"{program} is not installed: {_SETUP}")


def search_path() -> str:
    """Return the search path of programs: those of the environment first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def kvm_works(kernel: Kernel) -> bool:
    """Return true if hardware virtualization works, by booting a kernel until it panics without a root file system."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    qemu = [
        _EMULATOR,
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
    command = [*qemu, "-serial", "stdio", "-kernel", str(kernel.image), "-append", "console=ttyS0 panic=-1"]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_KVM_TRIAL_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return _PANIC.encode() in ended.stdout


@contextmanager
def _started(command: list[str], console: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run QEMU in its own session, with its console in a file. It ends with the block, or when this process dies."""
    with console.open("wb") as log:
        try:
            process = subprocess.Popen(
                [*_DIE_WITH_PARENT, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PATH": search_path()},
            )
        except FileNotFoundError as error:
            raise LabError(f"{error.filename} is missing: {_SETUP}") from error
    try:
        yield process
        # The command has ended. Kill a guest that does not power off in time.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POWER_OFF_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _exported(tag: str, folder: Path) -> list[str]:
    """Return QEMU's options that export a folder of the host to the guest, read-only, under a tag."""
    path = str(folder.resolve()).replace(",", ",,")
    export = f"local,id={tag},path={path},security_model=none,readonly=on,multidevs=remap"
    return ["-fsdev", export, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def _mount_commands(here: Path, writable: Path) -> str:
    """Return the shell commands that mount the exported folders in a guest, at their paths on the host.

    They create /dev/net/tun (`devices.txt`: misc, 200), since the guest has no udev. Opening it makes the kernel load
    the module.
    """
    cached = "mount -t 9p -o ro,version=9p2000.L,trans=virtio,access=any,msize=512000,cache=loose"
    place, results = shlex.quote(str(here)), shlex.quote(str(writable))
    return f"""\
echo {_WARNINGS} >/proc/sys/kernel/printk
set -e
[ -e /dev/net/tun ] || {{ mkdir -p /dev/net && mknod /dev/net/tun c 10 200; }}
mkdir -p {_SCRATCH}/usr {place}
{cached} usr {_SCRATCH}/usr
{cached} here {place}
cd {_SCRATCH}/usr
for folder in {_PROGRAMS}; do mount --bind $folder /usr/$folder; done
mkdir -p {results}
mount --bind {_SCRATCH}/writable {results}
cd {place}
set +e
"""


def _end_of(console: Path) -> str:
    """Return the lines from the first panic or hang on a console, or else its last lines, and the path of the file."""
    lines = [line[:_LINE_LENGTH] for line in console.read_text(encoding="utf-8", errors="replace").splitlines()]
    ends = (number for number, line in enumerate(lines) if _PANIC in line or _STUCK.search(line))
    begins = next(ends, len(lines) - _LAST_LINES)
    return "\n".join([*lines[max(0, begins) :][:_LAST_LINES], f"(complete console: {console})"])
