"""Kernels by name, command lines of guests, and matrices of checks, without booting a guest."""

import fcntl
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.made.run_folder import checks, folder

from lab.cli import main
from lab.commands import vm
from lab.errors import LabError
from lab.results.reader import RunFolder
from lab.verdict import Bracket, Judge
from lab.vm import archive, lane, machine
from lab.vm.lane import Outcome
from lab.vm.machine import Kernel, Machine

SCRIPT = Path("/srv/lab/results/vm/guest.sh")
KERNEL = Kernel("6.1", Path("/boot/vmlinuz-6.1.0-9-amd64"))
OTHER = Judge("scenario", "states", "raw tracepoint:x").count("flow", "time in LISTEN", Bracket(1, 3, 2), 2)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Use an empty folder as the cache of kernels."""
    monkeypatch.setattr(archive, "CACHE", tmp_path)
    return tmp_path / "kernels"


@pytest.mark.parametrize(
    ("name", "found"),
    [("6.1", "6.1.0-50-amd64"), ("6.1.0-9", "6.1.0-9-amd64"), ("6.12", "6.12.5-amd64"), ("6", "6.12.5-amd64")],
)
def test_an_unpacked_kernel_is_found_by_version(cache, name, found):
    """The newest fitting version is used. Versions compare number by number: 6.1 is not 6.12, and 50 comes after 9."""
    for release in ("6.1.0-9-amd64", "6.1.0-50-amd64", "6.12.5-amd64"):
        (cache / release).mkdir(parents=True)
    assert archive.unpacked(name) == cache / found


@pytest.mark.parametrize("place", ["boot/vmlinuz-6.1", "usr/lib/modules/6.1/vmlinuz"])
def test_the_image_is_found_in_a_package(tmp_path, place):
    """Debian's older packages have it in /boot, the newer ones next to the modules."""
    image = tmp_path / place
    image.parent.mkdir(parents=True)
    image.touch()
    assert Kernel.within("6.1", tmp_path) == Kernel("6.1", image)


def test_a_folder_without_a_kernel_is_refused(tmp_path):
    """The error says to remove the folder."""
    with pytest.raises(LabError, match=r"has 0 kernels: remove it"):
        Kernel.within("6.1", tmp_path)


def command_of(guest):
    return guest.command(KERNEL, SCRIPT, Path("/srv/lab"), Path("/srv/lab/results"))


def test_the_virtual_clock_has_one_processor():
    """Guest time is the number of instructions, which needs one processor and emulation."""
    command = command_of(Machine("virtual", cpus=4, kvm=True))
    assert command[command.index("--cpus") + 1] == "1"
    assert "--disable-kvm" in command
    assert command[-2:] == ["-icount", "shift=0,sleep=off"]
    assert command[command.index("preempt=full") - 1] == "--kopt"
    command = command_of(Machine("real", kvm=True))
    assert "--disable-kvm" not in command
    assert "-icount" not in command
    assert "--kopt" not in command
    assert "-cpu" not in command


def test_emulated_processors_read_time_from_the_time_stamp_counter():
    """All of QEMU's processors share one. A kernel that does not trust it reads a device, one processor at a time."""
    command = command_of(Machine())
    assert command[command.index("tsc=reliable") - 1] == "--kopt"


@pytest.mark.parametrize("clock", ["real", "virtual"])
def test_wrongly_emulated_features_are_off(clock):
    """With QEMU 7.2's AVX2 `numpy.argsort()` is wrong for ten or more values. With two threads a processor can hang."""
    command = command_of(Machine(clock))
    assert command[command.index("-cpu") + 1] == "max,-avx2"
    assert command[command.index("-accel") + 1] == "tcg,thread=single"


STUCK = ["watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [lab:7]", "RIP: 0010:spin"]
# Earlier lines on the console, lines that the error repeats, the limit, and the error's first line.
ENDS = {
    "panics": ([], ["Kernel panic - not syncing: no init", "---[ end Kernel panic ]---"], 60, "kernel 6.1 panicked"),
    "hangs": ([], [*STUCK, STUCK[0].replace("26", "75")], 60, "kernel 6.1: a processor hung for 60 s or more"),
    "takes long": (["booting"], STUCK, 1, "kernel 6.1 did not finish within 1 s"),
}


@pytest.mark.parametrize(("before", "repeated", "limit_s", "sentence"), ENDS.values(), ids=ENDS)
def test_a_guest_that_does_not_finish(tmp_path, monkeypatch, before, repeated, limit_s, sentence):
    """The error has a sentence and the kernel's messages, within the limit. The guest's processes are gone."""
    messages = shlex.quote("\n".join(before + repeated))
    command = ["/bin/sh", "-c", f"echo $$ >{tmp_path}/pid; echo {messages}; exec sleep 600"]
    monkeypatch.setattr(Machine, "command", lambda *_arguments: command)
    with pytest.raises(LabError) as raised:
        run_here(tmp_path, limit_s=limit_s)
    assert str(raised.value).splitlines()[:-1] == [f"{sentence}:", *repeated]
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_a_guest_that_ends_before_its_command(tmp_path, monkeypatch):
    """A guest that is switched off leaves no exit status, which is an error."""
    monkeypatch.setattr(Machine, "command", lambda *_arguments: ["/bin/sh", "-c", "echo last command"])
    with pytest.raises(LabError, match=r"kernel 6\.1 ended before its command did:\nlast command"):
        run_here(tmp_path, limit_s=60)


def test_a_guest_that_finishes(tmp_path, monkeypatch):
    """The output and the exit status of the command are passed on."""
    command = ["/bin/sh", "-c", f"echo 7 checks >{tmp_path}/output.log; echo 3 >{tmp_path}/status"]
    monkeypatch.setattr(Machine, "command", lambda *_arguments: command)
    shown = []
    assert run_here(tmp_path, limit_s=60, show=shown.append) == 3
    assert "".join(shown) == "7 checks\n"


def run_here(folder, *, limit_s, show=print):
    return machine.run(
        Machine(), KERNEL, ["true"], folder=folder, here=folder, writable=folder, limit_s=limit_s, show=show
    )


@pytest.mark.parametrize("here", ["/srv/lab", "/tmp/the checkout", "/srv/a,b"])  # noqa: S108 (nothing is written)
def test_a_guest_has_the_checkout_where_the_host_has_it(here):
    """The path may have spaces or commas. The kernel's command line has only the path of the script."""
    results = Path(here, "results")
    command = Machine().command(KERNEL, results / "vm" / "guest.sh", Path(here), results)
    assert command[command.index("--script-sh") + 1] == "sh /run/tcp-truth-lab-vm/writable/vm/guest.sh"
    assert any(f"path={here.replace(',', ',,')}," in word for word in command)


def outcome(mechanism, *measured, places="fentry:tcp_recvmsg, fentry:tcp_sendmsg", **fields):
    judge = Judge("scenario", "rtt", places)
    checks = [
        judge.count("flow", f"RTT samples of send() {number}", Bracket(1, 3, 2), it)
        for number, it in enumerate(measured)
    ]
    return replace(Outcome("6.1", mechanism, 0, None, checks), **fields)


def test_the_matrix_has_a_cell_for_each_kernel_and_mechanism():
    """A cell has the number of right or wrong checks, below the probe's mechanism. A missing check is a dash."""
    none = replace(outcome("kprobe"), status=2)
    outcomes = [outcome("fentry", 1, 2), outcome("tracepoint", 2, 9, places="raw tracepoint:x", kernel="7.2"), none]
    head, _, *rows = (re.split(r"  +", line.strip()) for line in lane.table(outcomes).splitlines())
    assert head == ["probe", "check", "6.1, fentry", "7.2, tracepoint", "6.1, kprobe"]
    assert rows == [
        ["rtt", "attached to", "fentry", "raw tracepoint", "-"],
        ["RTT samples of send()", "2 right", "1 of 2 wrong", "-"],
    ]


def test_a_matrix_that_is_wider_than_the_terminal():
    """Each kernel has its own table. The other lines are the same."""
    ran = [outcome(mechanism, 1, kernel=kernel) for kernel in ("6.1", "7.2") for mechanism in ("fentry", "kprobe")]
    heads = {
        width: [line.split()[2::2] for line in lane.summary(ran, width).splitlines() if line.startswith("probe ")]
        for width in (None, 400, 80)
    }
    assert heads == {None: [["6.1,"] * 2 + ["7.2,"] * 2], 400: heads[None], 80: [["6.1,"] * 2, ["7.2,"] * 2]}
    assert lane.summary(ran, 80).splitlines()[-1] == "7.2, kprobe: passed, without results"


def test_the_matrix_shows_the_error_of_exact_times():
    """It is the largest distance from the injected delay. Checks on a real clock have none."""
    judge = Judge("scenario", "states", "raw tracepoint:x")
    checks = [judge.duration("flow", "time in SYN_SENT", Bracket(0, 9000, 1000), it) for it in (900, 1200)]
    assert lane.table([replace(outcome("fentry"), checks=checks)]).rstrip().endswith("2 right")
    exact = [check.within(500) for check in checks]
    assert "2 right, at most 200 ns off" in lane.table([replace(outcome("fentry"), checks=exact)])


def test_quantities_that_one_mechanism_lacks_are_listed():
    """Mechanisms are compared per probe, and only on the same kernel."""
    with_one, without = outcome("fentry", 1), replace(outcome("tracepoint"), checks=[OTHER])
    assert lane.differences([with_one, without]) == [
        "6.1: `rtt` with fentry, but not with tracepoint: RTT samples of send()",
        "6.1: `states` with tracepoint, but not with fentry: time in LISTEN",
    ]
    assert lane.differences([with_one, replace(without, kernel="7.2")]) == []
    assert lane.differences([with_one, outcome("kprobe")]) == []  # a run without checks
    assert lane.differences([outcome("kprobe")]) == []


def test_two_runs_agree():
    """Exact times may differ by their tolerance. Larger differences, and quantities that one run lacks, are listed."""
    judge = Judge("scenario", "states", "raw tracepoint:x")

    def ran(*measured):
        checks = [
            judge.duration("flow", f"time {n}", Bracket.early(0, 900), it).within(100) for n, it in enumerate(measured)
        ]
        return replace(
            outcome("best"), checks=[*checks, judge.duration("flow", "loose", Bracket.early(0, 900), measured[0])]
        )

    assert lane.disagreements(ran(0, 100), ran(100, 0)) == []
    assert lane.disagreements(ran(0, 50), ran(101, 50)) == [
        "time 0 of flow: the error of states is 0 ns in one run, 101 ns in the other"
    ]
    assert lane.disagreements(ran(0, 50), ran(0)) == ["time 1 of flow was measured in one of two runs only"]


def test_a_lane_forces_each_mechanism():
    """Each run gets its mechanism and clock, and prints its exit status. On the virtual clock it is repeated."""
    script = lane.script(["best", "kprobe"], "virtual", ["scenarios/suite/test_exact.py", "-k", "not slow"])
    runs = [line for line in script.splitlines() if "pytest" in line]
    assert ["LAB_ATTACH=kprobe" in run for run in runs] == [False, False, True, True]
    assert all(
        "LAB_CLOCK=virtual" in run and run.endswith("scenarios/suite/test_exact.py -k 'not slow'") for run in runs
    )
    assert all("-m 'not rootless'" in run for run in runs)
    assert len([line for line in lane.script(["best"], "real", []).splitlines() if "pytest" in line]) == 1


def shell(script):
    return subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)


def test_a_command_gets_its_words_and_its_mechanism(monkeypatch):
    """Its output is nothing but its own, and its exit status is that of the shell."""
    words = ["sh", "-c", 'echo "$1" $LAB_ATTACH $LAB_CLOCK; exit 7', "sh", "a  'b'"]
    monkeypatch.delenv("LAB_ATTACH", raising=False)
    done = shell(lane.plain_script(["best"], "real", words))
    assert (done.returncode, done.stdout) == (7, "a  'b' real\n")
    done = shell(lane.plain_script(["fentry", "kprobe"], "real", words))
    assert done.stdout.splitlines() == [
        "a  'b' fentry real",
        "--- lab vm: fentry 7",
        "a  'b' kprobe real",
        "--- lab vm: kprobe 7",
    ]


def test_the_first_failure_is_the_status():
    """A later run that passes does not hide it."""
    script = lane.plain_script(["fentry", "kprobe"], "real", ["sh", "-c", '[ "$LAB_ATTACH" = kprobe ] || exit 3'])
    assert shell(script).returncode == 3


def test_a_program_of_this_environment_is_found():
    """`lab` is the one that runs here."""
    done = shell(lane.plain_script(["best"], "real", ["sh", "-c", "command -v lab"]))
    assert Path(done.stdout.strip()) == Path(sys.executable).with_name("lab")


@pytest.fixture
def guests(monkeypatch, tmp_path):
    """Replace guests by lists of calls: of pytest, and of other commands, whose exit statuses are 0, 5, 0."""
    calls, statuses = [], iter([0, 5, 0])
    monkeypatch.setattr(vm, "require_guests", lambda: None)
    monkeypatch.setattr(lane, "kernel", lambda name: Kernel(name, tmp_path / "vmlinuz"))
    monkeypatch.setattr(vm, "kvm_works", lambda _: False)

    def in_guest(_kernel, _guest, command, *, cwd, **_):
        calls.append((shlex.split(command[-1]), cwd))
        return next(statuses), ""

    def run(_kernel, _guest, _mechanisms, arguments, *, cwd, **_):
        calls.append((arguments, cwd))
        return []

    monkeypatch.setattr(lane, "in_guest", in_guest)
    monkeypatch.setattr(lane, "run", run)
    return calls


def test_any_command(guests, capsys):
    """It runs in the current folder on each kernel; the first failure is the exit status. Standard output is the command's."""
    assert main(["vm", "--kernel", "5.10", "6.1", "6.12", "--", "uname", "-r"]) == 5
    assert [cwd for _, cwd in guests] == [Path.cwd()] * 3
    assert all("uname" in words and "-r" in words for words, _ in guests)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("software emulation") == 3


def test_pytest_is_the_suite(guests):
    """Its words are pytest's arguments. Without a command a short selection runs in the checkout."""
    main(["vm", "--kernel", "6.1", "--", "pytest", "scenarios/suite", "-x"])
    main(["vm", "--kernel", "6.1"])
    assert guests == [(["scenarios/suite", "-x"], Path.cwd()), (["scenarios/suite/test_exact.py"], None)]


def test_an_installed_lab_has_no_suite(guests, monkeypatch, capsys):
    """It asks for a command."""
    monkeypatch.setattr(vm, "CHECKOUT", None)
    assert main(["vm", "--kernel", "6.1"]) == 2
    assert "give a command after --" in capsys.readouterr().err
    assert guests == []


def test_the_virtual_clock_raises_the_priority_of_ksoftirqd():
    """The command precedes the first run. On the real clock priorities stay unchanged."""
    assert "chrt --fifo --pid 3" in lane.script(["best"], "virtual", []).splitlines()[0]
    assert "chrt" not in lane.script(["best"], "real", [])


def test_guests_do_not_share_a_folder(tmp_path, monkeypatch):
    """A second guest with the same kernel and clock is refused before it boots: both would use the same files."""
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    (folder := tmp_path / "vm" / "6.1-virtual").mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LabError, match="another guest uses"):
            lane.in_guest(KERNEL, Machine("virtual"), ["true"], limit_s=1)


def test_the_output_of_a_guest_is_parsed(tmp_path):
    """A run's results are in the folder that it prints. A run that ended earlier has none."""
    judge = Judge("scenario", "rtt", "fentry:x")
    (tmp_path / "checks.jsonl").write_text(judge.count("flow", "RTT samples", Bracket(1, 3, 2), 2).to_json() + "\n")
    printed = f"...\nresults: {tmp_path}\n1 passed\n--- lab vm: fentry 0\nno BCC\n--- lab vm: kprobe 2\n"
    first, second = lane.outcomes("6.1", printed)
    assert (first.mechanism, first.passed, first.results, len(first.checks)) == ("fentry", True, tmp_path, 1)
    assert (second.mechanism, second.passed, second.results, second.checks) == ("kprobe", False, None, [])


def test_runs_of_other_machines(tmp_path):
    """The folder of a run is enough for the matrix. Another folder is refused."""
    (tmp_path / "run.json").write_text('{"kernel": {"release": "6.12"}, "time": "virtual", "attach": "kprobe"}')
    check = Judge("scenario", "rtt", "kprobe:x").count("flow", "RTT samples", Bracket(1, 3, 2), 9)
    (tmp_path / "checks.jsonl").write_text(check.to_json() + "\n")
    found = Outcome.of(RunFolder.open(tmp_path))
    assert (found.kernel, found.mechanism, found.passed) == ("6.12, virtual clock", "kprobe", False)
    with pytest.raises(LabError, match="is no run's folder"):
        RunFolder.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("noted", "checks", "passed"), [(0, 1, True), (1, 1, False), (None, 1, True), (None, 0, False)]
)
def test_a_run_whose_tests_failed_before_their_checks_has_not_passed(tmp_path, noted, checks, passed):
    """An error in a fixture leaves no wrong check, only the recorded exit status."""
    about = {"kernel": {"release": "6.12"}} | ({} if noted is None else {"status": noted})
    (tmp_path / "run.json").write_text(json.dumps(about))
    check = Judge("scenario", "rtt", "kprobe:x").count("flow", "RTT samples", Bracket(1, 3, 2), 2)
    (tmp_path / "checks.jsonl").write_text(f"{check.to_json()}\n" * checks)
    assert Outcome.of(RunFolder.open(tmp_path)).passed == passed


def test_runs_by_name(tmp_path, monkeypatch, capsys):
    """The matrix takes the names of runs, as the other commands do."""
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    folder(tmp_path / "20261101T000000-1", checks=checks(wrong=0, count=1), status=0)
    (tmp_path / "latest").symlink_to("20261101T000000-1")
    assert main(["matrix", "latest", "20261101T000000-1"]) == 0
    assert capsys.readouterr().out.count("passed") == 2


@pytest.mark.parametrize("command", [["vm", "--kernel", "6.1"], ["gate"]])
def test_without_an_emulator(monkeypatch, capsys, command):
    """One sentence says what to install, before anything is downloaded."""
    monkeypatch.setattr(machine, "require_root", lambda: None)
    monkeypatch.setattr(machine, "_EMULATOR", "no-emulator")
    assert main(command) == 2
    assert capsys.readouterr().err == "lab: no-emulator is not installed: run make vm-setup\n"
