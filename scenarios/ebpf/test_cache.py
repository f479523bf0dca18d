"""The cache of compiled programs: an entry is used without the compiler, and equals what the compiler would return."""

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

# `lab states`, which reports whether libbcc and NumPy are loaded before its heading.
REPORT_IMPORTS = """
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
    """Give this process an empty cache, and return the list of files compiled since."""
    monkeypatch.setattr(cache, "CACHE", tmp_path)
    compiled = []
    compile_ = compiler._compile  # noqa: SLF001 (the function that the cache avoids)
    monkeypatch.setattr(compiler, "_compile", lambda *how: (compiled.append(how[1]), compile_(*how))[1])
    return compiled


def run_states(folder):
    """Run `lab states` with its cache in `folder`, and return the finished process."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", REPORT_IMPORTS],
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=True,
        env=environment,
    )


def test_a_tool_starts_without_slow_imports(tmp_path):
    """The compiler is loaded only without an entry; NumPy is not loaded before the heading."""
    for compiles in (True, False):
        done = run_states(tmp_path)
        assert done.stderr == ""
        assert done.stdout.startswith(f"{compiles} False\nSKADDR")


def test_an_entry_that_others_can_write_to(tmp_path):
    """The entry is ignored with a warning, and the program is compiled."""
    run_states(tmp_path)
    (entry,) = (tmp_path / "tcp-truth-lab" / "programs").glob("states-*")
    entry.chmod(0o666)
    done = run_states(tmp_path)
    assert done.stdout.startswith("True False\nSKADDR")
    assert f"{entry} is not used (it is another user's, or others may write to it)" in done.stderr


@pytest.mark.parametrize("source", sorted(SOURCES.glob("*.c")), ids=lambda path: path.name)
def test_a_cached_program_equals_the_compiled_one(empty, source):
    """The second call returns the same spec for each probe without a compilation."""
    first = compiler.compile_source(source)
    assert first.functions
    assert compiler.compile_source(source) == first
    assert empty == [source.name]


def test_another_source_definition_or_kernel(empty, tmp_path, monkeypatch):
    """Each source text, set of definitions and kernel has its own entry."""
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
def test_each_mechanism_is_another_program(empty, monkeypatch, probe):
    """A probe that observes no kernel function has one program for all mechanisms."""
    programs = []
    for mechanism in attach.MECHANISMS:
        monkeypatch.setattr(attach, "mechanism", lambda mechanism=mechanism: mechanism)
        programs.append(compiler.compile_source(SOURCES / f"{probe}.c"))
    kinds = [
        {code.name.split("__")[0] for code in program.functions} & {"on_fentry", "on_kprobe"} for program in programs
    ]
    assert kinds == ([set()] * 3 if probe == "states" else [{"on_fentry"}, {"on_kprobe"}, set()])
    assert len(empty) == (1 if probe == "states" else 3)


def test_a_source_that_does_not_compile(empty, tmp_path, capfd):
    """The error contains the compiler's message, there is no entry, and the kernel is not blamed."""
    source = tmp_path / "wrong.c"
    source.write_text(
        '#include "include/attach_points.h"\n#include "include/lost.h"\nON_TC(egress) { return undeclared_name; }\n'
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
    """The compiler runs with another user id. Afterwards ids, file descriptors and environment are the same."""
    before = sorted(Path("/proc/self/fd").iterdir())
    compiler.compile_source(SOURCES / "states.c")
    assert empty == ["states.c"]
    assert os.getresuid() == (0, 0, 0)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert "BCC_KERNEL_SOURCE" not in os.environ
