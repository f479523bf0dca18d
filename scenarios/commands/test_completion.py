"""A shell completes commands and options of `lab`, and a live tool does not pay for it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import HUNG_S, lab_command

from lab.paths import CHECKOUT

BASH = """
PATH={programs}:$PATH
eval "$(lab completion bash)"
COMP_LINE=$1
COMP_POINT=${{#1}}
_python_argcomplete lab
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(line):
    """Return what bash offers at the end of a command line."""
    script = BASH.format(programs=Path(sys.executable).parent)
    command = ["bash", "-c", script, "bash", line]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=HUNG_S, check=True)
    assert done.stderr == ""
    return [word.strip() for word in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lab st", ["states"]),
        ("lab states", ["states"]),
        ("lab states --sec", ["--seconds"]),
        ("lab packets --mode na", ["native"]),
        ("lab analyse --json cl", ["client"]),
        ("lab completion z", ["zsh"]),
        ("lab states --ready", []),
    ],
)
def test_the_end_of_a_line(line, offered):
    """Commands, options and the values of a choice; no option that the help does not show."""
    assert [word for word in completed(line) if word] == offered


def test_all_commands_and_all_options():
    """Those of the help."""
    helped = re.findall(r"^  (\w+)", lab_command("--help").stdout, re.MULTILINE)
    commands = [word for word in completed("lab ") if not word.startswith("-")]
    assert commands == sorted(helped)
    assert {"completion", "demo", "states"} <= set(commands)
    options = completed("lab rtt --")
    assert {"--help", "--json", "--raw", "--seconds"} <= set(options)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_code_for_a_shell(shell):
    """It registers a function for `lab`; zsh finds it by its first line when it is in a folder of functions."""
    code = lab_command("completion", shell).stdout
    assert code.startswith("#compdef lab\n")
    assert "_python_argcomplete lab" in code


def test_a_start_without_completion():
    """No command imports the library."""
    command = [sys.executable, "-X", "importtime", "-m", "lab", "states", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S, check=True)
    assert "argparse" in done.stderr
    assert "argcomplete" not in done.stderr
