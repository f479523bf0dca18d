"""The page `docs/write-a-probe.md`: the probe that it walks through is written into a copy of the checkout, and runs."""

import os
import shutil
import subprocess
import sys

import pytest
from support.pages import files_of
from support.processes import HUNG_S

from lab.paths import CHECKOUT

COPIED = ("bpf", "lab", "scenarios", "conftest.py", "pyproject.toml")


@pytest.fixture
def walk(tmp_path):
    """Return a function that runs a command in a copy of the checkout with the walk's files; `change` edits a file before."""
    for name in COPIED:
        source = CHECKOUT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    files = files_of(CHECKOUT / "docs/write-a-probe.md")
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(*command, change=()):
        if change:
            name, old, new = change
            assert old in files[name]
            (tmp_path / name).write_text(files[name].replace(old, new))
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            env=os.environ | {"LAB_RESULTS": str(tmp_path / "results"), "LAB_CACHE": "off"},
            capture_output=True,
            text=True,
            timeout=HUNG_S,
            check=False,
        )

    assert len(files) == 7
    return run


PROGRAM, JUDGE = "bpf/resets.c", "lab/probes/resets/judge.py"
SCENARIO = ("pytest", "-p", "no:cacheprovider", "scenarios/probes/resets", "-k", "[4]")


def test_the_walk(walk):
    """The scenario passes with a check for each side of the connection, and the live tool starts."""
    done = walk(*SCENARIO)
    assert done.returncode == 0, done.stdout
    assert "2 checks: every measured value" in done.stdout
    tool = walk("lab", "resets", "--seconds", "0.1")
    assert (tool.returncode, tool.stderr) == (0, "")
    assert tool.stdout.startswith("TIME")
    assert "resets" in walk("lab", "--help").stdout
    assert '"const": "resets/1"' in walk("lab", "schema", "resets").stdout


def test_a_c_error_is_an_error(walk):
    """It fails the scenario with the compiler's words; it is not skipped as something that the kernel lacks."""
    done = walk(*SCENARIO, change=(PROGRAM, "return report(ctx);", "return report(context);"))
    assert done.returncode == 1
    assert "resets.c does not compile: correct it" in done.stdout
    assert "use of undeclared identifier 'context'" in done.stdout
    assert "skipped" not in done.stdout


def test_runs_that_are_not_counted(walk):
    """A program whose withheld runs would go unnoticed is refused with the macro to use."""
    first = "    first_run(EVENT(tcp_receive_reset), AT_RESET, ctx->args[0], is_held((const void *)ctx->args[0]));\n"
    done = walk(*SCENARIO, change=(PROGRAM, first, ""))
    assert done.returncode == 1
    assert "resets.c does not count its runs at tcp_receive_reset: start the function with first_run(" in done.stdout


def test_a_judge_without_checks(walk):
    """It fails at once, and the file to complete is named."""
    done = walk(*SCENARIO, change=(JUDGE, "        if server is None:\n", "        if server is not None:\n"))
    assert done.returncode == 1
    assert "checks() in lab/probes/resets/judge.py has to compare at least one number of each" in done.stdout
