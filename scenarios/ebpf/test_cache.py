"""A program that was compiled before is loaded without a compiler, and is the one that a compiler would make now."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import HUNG_S

from lab.ebpf import attach, cache, compiler
from lab.errors import LabError, UnsupportedByKernel
from lab.linux import btf
from lab.paths import SOURCES

# `lab states`, telling what is there by the time that it shows its header.
WATCHED = """
import sys
from lab import cli
from lab.live.output import Output
start = Output.start
def started(output):
    print("libbcc" in open("/proc/self/maps").read(), "numpy" in sys.modules)
    start(output)
Output.start = started
sys.exit(cli.main(["states", "--seconds", "0.1"]))
"""


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Give this process an empty cache, and the number of compilations since."""
    monkeypatch.setattr(cache, "CACHE", tmp_path)
    made = []
    compile_ = compiler._compile  # noqa: SLF001 (what the cache saves)
    monkeypatch.setattr(compiler, "_compile", lambda *how: (made.append(how[1]), compile_(*how))[1])
    return made


def watched(folder):
    """Run `lab states` with a cache of its own; returns what it said."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", WATCHED], capture_output=True, text=True, timeout=HUNG_S, check=True, env=environment
    )


def test_nothing_slow_comes_before_the_first_event(tmp_path):
    """Without an entry the compiler, with one not even that; neither time NumPy."""
    for compiles in (True, False):
        said = watched(tmp_path)
        assert said.stderr == ""
        assert said.stdout.startswith(f"{compiles} False\nSKADDR")


def test_an_entry_that_others_can_write_to(tmp_path):
    """It is compiled instead, which is said, and the tool does what it does."""
    watched(tmp_path)
    (entry,) = (tmp_path / "tcp-truth-lab" / "programs").glob("states-*")
    entry.chmod(0o666)
    said = watched(tmp_path)
    assert said.stdout.startswith("True False\nSKADDR")
    assert f"{entry} is not used (it is another user's, or others may write to it)" in said.stderr


@pytest.mark.parametrize("source", sorted(SOURCES.glob("*.c")), ids=lambda path: path.name)
def test_the_same_program(empty, source):
    """What is read is what was written, for each probe, and no compiler is asked again."""
    first = compiler.compile_source(source)
    assert first.functions
    assert compiler.compile_source(source) == first
    assert empty == [source.name]


def test_another_source_definition_or_kernel(empty, tmp_path, monkeypatch):
    """Whatever a program depends on makes another entry."""
    source = tmp_path / "small.c"
    text = '#include "include/attach_points.h"\n#include "include/lost.h"\nON_TC(egress) { return WHAT; }\n'
    source.write_text(text)
    assert compiler.compile_source(source, ["WHAT=1"]) != compiler.compile_source(source, ["WHAT=2"])
    source.write_text(text.replace("WHAT", "WHAT + 1"))
    compiler.compile_source(source, ["WHAT=1"])
    monkeypatch.setattr(btf, "kernel_identity", lambda: "another kernel")
    compiler.compile_source(source, ["WHAT=1"])
    assert len(empty) == 4
    compiler.compile_source(source, ["WHAT=1"])
    assert len(empty) == 4


@pytest.mark.parametrize("probe", ["analyse", "layers", "rtt", "states"])
def test_each_way_of_attaching_is_another_program(empty, monkeypatch, probe):
    """But for the probe that observes no kernel function."""
    made = []
    for mechanism in attach.MECHANISMS:
        monkeypatch.setattr(attach, "mechanism", lambda mechanism=mechanism: mechanism)
        made.append(compiler.compile_source(SOURCES / f"{probe}.c"))
    kinds = [{code.name.split("__")[0] for code in program.functions} & {"on_fentry", "on_kprobe"} for program in made]
    assert kinds == ([set()] * 3 if probe == "states" else [{"on_fentry"}, {"on_kprobe"}, set()])
    assert len(empty) == (1 if probe == "states" else 3)


def test_a_source_that_does_not_compile(empty, tmp_path, capfd):
    """One sentence with the compiler's own words, and no entry; it is no matter of the kernel."""
    source = tmp_path / "wrong.c"
    source.write_text(
        '#include "include/attach_points.h"\n#include "include/lost.h"\nON_TC(egress) { return nothing_of_that_name; }\n'
    )
    with pytest.raises(
        LabError, match=r"wrong\.c does not compile: correct it\n(.|\n)*wrong\.c:3:24: error: "
    ) as raised:
        compiler.compile_source(source)
    assert not isinstance(raised.value, UnsupportedByKernel)
    assert capfd.readouterr().err == ""
    assert cache.examine().startswith("0 entries")
    assert empty == ["wrong.c"]


def test_the_compiler_keeps_the_process_as_it_is(empty):
    """It runs under another user's id; nothing else does, and no map of its own stays."""
    before = sorted(Path("/proc/self/fd").iterdir())
    compiler.compile_source(SOURCES / "states.c")
    assert empty == ["states.c"]
    assert os.getresuid() == (0, 0, 0)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert "BCC_KERNEL_SOURCE" not in os.environ
