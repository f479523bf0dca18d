"""The doctor's results agree with tc, ip, tracefs and bpftool, and its trials leave nothing behind."""

import argparse
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.commands import doctor as command
from lab.doctor import capabilities, network_trials
from lab.ebpf import attach, cache
from lab.linux import bpf, tracefs
from lab.linux.btf import Btf
from lab.linux.syscalls import owned
from lab.paths import CHECKOUT


def succeeds(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def held():
    """Return the fds, threads, namespace and cgroups of this process, which could keep a namespace or program alive."""
    cgroups = [path for mount in tracefs.mounts("cgroup2") for path in mount.glob(f"lab-trial-{os.getpid()}-*")]
    fds, threads = (sorted(Path(f"/proc/self/{kind}").iterdir()) for kind in ("fd", "task"))
    return fds, threads, Path("/proc/self/ns/net").readlink(), cgroups


def wait_until(condition) -> None:
    """Wait until the kernel has ended threads and freed filters in the background, at most 10 s."""
    limit_ns = time.monotonic_ns() + 10_000_000_000
    while not condition() and time.monotonic_ns() < limit_ns:
        time.sleep(0.01)


def run_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def refuse(*_args, **_options):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("kind", ["netem", "tbf", "htb", "clsact"])
def test_a_qdisc_works_exactly_when_tc_can_add_it(works, kind):
    options = {"tbf": ["rate", "1mbit", "burst", "2000", "latency", "1ms"]}.get(kind, [])
    place = [] if kind == "clsact" else ["root"]
    assert works[kind] == succeeds("unshare", "--net", "tc", "qdisc", "add", "dev", "lo", *place, kind, *options)


def test_a_bridge_works_exactly_when_ip_can_make_it(works):
    assert works["bridge"] == succeeds("unshare", "--net", "ip", "link", "add", "trial", "type", "bridge")


def test_a_kprobe_works_exactly_when_tracefs_can_make_one(works):
    name = f"lab/doctor_{os.getpid()}"
    try:
        tracefs.write_kprobe_event(f"p:{name} tcp_v4_connect")
    except OSError:
        assert not works["kprobe"]
    else:
        tracefs.write_kprobe_event(f"-:{name}")
        assert works["kprobe"]


@pytest.mark.skipif(not (shutil.which("bpftool") and succeeds("bpftool", "version")), reason="bpftool: not installed")
def test_bpftool_agrees(works):
    words = ["bpftool", "--json", "feature", "probe", "kernel"]
    other = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    types, maps = other["program_types"], other["map_types"]
    assert works["ring buffer"] == maps["have_ringbuf_map_type"]
    for name, prog_type in {
        "TC filter": "sched_cls",
        "XDP generic": "xdp",
        "cgroup_skb": "cgroup_skb",
        "sock_ops": "sock_ops",
        "raw tp inet_sock_set_state": "raw_tracepoint",
        "tracepoint inet_sock_set_state": "tracepoint",
    }.items():
        # The program type alone does not suffice to attach, but is necessary.
        assert not works[name] or types[f"have_{prog_type}_prog_type"], name


@pytest.mark.parametrize("enum", [bpf.ProgType, bpf.AttachType])
def test_numbers_are_those_of_this_kernel(enum):
    kernel_enum, prefix = {
        bpf.ProgType: ("bpf_prog_type", "BPF_PROG_TYPE_"),
        bpf.AttachType: ("bpf_attach_type", "BPF_"),
    }[enum]
    for one in enum:
        if not one.name.startswith("TCX_"):  # younger than the oldest kernel of the lab
            assert Btf.of_kernel().enumerator(kernel_enum, prefix + one.name) == one, one.name


def test_the_error_contains_the_verifiers_reason():
    with pytest.raises(OSError, match="R0 !read_ok") as refusal:
        bpf.prog_load(bpf.ProgType.XDP, bpf.instruction(0x95))
    assert refusal.value.errno == errno.EACCES


def test_a_loaded_program_is_listed_and_a_closed_one_is_not():
    before = bpf.prog_ids_of_process(os.getpid())
    with owned(bpf.prog_load(bpf.ProgType.XDP, bpf.RETURN_ZERO)):
        (prog_id,) = bpf.prog_ids_of_process(os.getpid()) - before
        assert prog_id in bpf.prog_ids()
        assert bpf.prog_exists(prog_id)
    assert not bpf.prog_exists(prog_id)


def test_examining_leaves_nothing_behind(monkeypatch):
    loaded = set()

    def load_and_note(*args, **options):
        fd = real_load(*args, **options)
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="utf-8").splitlines()
        loaded.update(int(line.split()[1]) for line in lines if line.startswith("prog_id:"))
        return fd

    real_load = bpf.prog_load
    for module in (bpf, network_trials):
        monkeypatch.setattr(module, "prog_load", load_and_note)
    before = held()
    capabilities.examine()
    assert len(loaded) >= 8, "the test did not observe the programs of the trials: the check below would prove nothing"
    wait_until(lambda: held() == before and not any(map(bpf.prog_exists, loaded)))
    assert held() == before
    assert [prog_id for prog_id in loaded if bpf.prog_exists(prog_id)] == []


def test_an_interrupted_trial_leaves_nothing_behind():
    def interrupted(_name, _attempt):
        raise KeyboardInterrupt

    before = held()
    with pytest.raises(KeyboardInterrupt):
        network_trials.run(interrupted)
    wait_until(lambda: held() == before)
    assert held() == before


def test_json_is_one_object(capsys):
    status = run_command("--json")
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"capabilities", "choices"}
    assert [row["observation"] for row in found["choices"]] == list(capabilities.MECHANISMS)
    missing = {row["name"] for row in found["capabilities"] if not row["available"]} & capabilities.INDISPENSABLE.keys()
    assert status == bool(missing)


def test_tables_fit_100_columns(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cache, "CACHE", tmp_path / ("deep" * 20))
    run_command()
    assert max(map(len, capsys.readouterr().out.splitlines()[:-1])) <= 100


def test_a_refusal_is_reported_with_its_reason(monkeypatch, capsys):
    monkeypatch.setattr(bpf, "map_create", refuse)
    assert run_command() == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=3)[2:] for line in lines if line.startswith("ring buffer")] == [
        ["no", "the kernel forbids it (EPERM)"]
    ]
    assert lines[-1].startswith("The suite cannot run here: ")
    assert capabilities.INDISPENSABLE["ring buffer"] in lines[-1]


def test_the_next_mechanism_is_chosen_when_a_better_one_is_refused(monkeypatch):
    monkeypatch.delenv(attach.FORCED, raising=False)
    refused = {"fentry": "too locked", "kprobe": "too old"}
    needs = {need for mechanisms in capabilities.MECHANISMS.values() for _, need in mechanisms}
    found = [capabilities.Capability(name, name not in refused, refused.get(name, "fine")) for name in needs]
    chosen = {choice.observation: choice for choice in capabilities.choices(found)}
    reach = chosen["segment reaches TCP"]
    assert (reach.chosen, reach.refused) == ("cgroup_skb ingress", "fentry: too locked; kprobe: too old")
    assert (chosen["link condition"].chosen, chosen["link condition"].refused) == ("netem", "")


@pytest.mark.parametrize("mechanism", attach.MECHANISMS)
def test_a_way_that_is_asked_for_is_the_only_one(monkeypatch, mechanism):
    monkeypatch.setenv(attach.FORCED, mechanism)
    found = [
        capabilities.Capability(need, available=True, detail="fine")
        for ways in capabilities.MECHANISMS.values()
        for _, need in ways
    ]
    chosen = {choice.observation: choice.chosen for choice in capabilities.choices(found)}
    assert chosen["segment reaches TCP"] == (mechanism if mechanism != "tracepoint" else "cgroup_skb ingress")
    assert chosen["link condition"] == "netem"


def test_no_way_at_all_is_said():
    needs = {need for mechanisms in capabilities.MECHANISMS.values() for _, need in mechanisms}
    found = [capabilities.Capability(name, available=False, detail="") for name in needs]
    assert {choice.chosen for choice in capabilities.choices(found)} == {"none"}


def test_without_privileges_nothing_crashes_and_root_is_the_remedy():
    script = "from argparse import *; from lab.commands import doctor; raise SystemExit(doctor.run(Namespace(json=0)))"
    words = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == f"The suite cannot run here: {capabilities.INDISPENSABLE['root']}."
