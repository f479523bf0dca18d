"""The GitHub action: its shell steps run here, with stubs for what needs a network or root."""

import json
import os
import re
import subprocess

import pytest
from ruamel.yaml import YAML

from lab.judging.finding import FAILING
from lab.paths import CHECKOUT

ACTION = YAML(typ="safe").load((CHECKOUT / "action.yml").read_text())
EXPRESSION = re.compile(r"\$\{\{ (.*?) \}\}")
# Each stub adds its name and its arguments to a log. `python3 -m venv --system-site-packages FOLDER` makes more stubs.
STUB = """\
#!/usr/bin/python3
import json, os, shutil, sys
name = os.path.basename(sys.argv[0])
with open({log!r}, "a") as log:
    print(json.dumps([name, *sys.argv[1:]]), file=log)
if name == "python3":
    os.makedirs(os.path.join(sys.argv[-1], "bin"))
    for program in ("pip", "lab"):
        shutil.copy(sys.argv[0], os.path.join(sys.argv[-1], "bin", program))
elif name == "id":
    print({uid})
elif name == "sudo":
    os.execvp(sys.argv[1], sys.argv[1:])
elif name == "lab":
    for option in ("--junit", "--badge"):
        open(sys.argv[sys.argv.index(option) + 1], "w").close()
    sys.exit({status})
"""


class Run:
    """One use of the action: the arguments of each stub, the exit status, and the outputs."""

    def __init__(self, folder, *, uid=0, status=0, **inputs):
        self._folder, self._log = folder, folder / "log"
        self._inputs = {name: it.get("default") for name, it in ACTION["inputs"].items()} | inputs
        self.outputs = {}
        (folder / "stubs").mkdir()
        (folder / "workspace").mkdir()
        for name in ("apt-get", "id", "python3", "sudo"):
            (folder / "stubs" / name).write_text(STUB.format(log=str(self._log), uid=uid, status=status))
            (folder / "stubs" / name).chmod(0o755)
        self.status = next(filter(None, map(self._step, ACTION["runs"]["steps"])), 0)
        self.calls = [json.loads(line) for line in self._log.read_text().splitlines()]

    def _step(self, step):
        """Run a step and return its exit status. GitHub runs `shell: bash` with these options."""
        if "run" not in step:
            return 0
        assert "${{" not in step["run"], "an input in a script is code"
        assert step["shell"] == "bash"
        output = self._folder / "output"
        output.touch()
        environment = {name: EXPRESSION.sub(self._value, text) for name, text in step["env"].items()}
        environment |= {
            "GITHUB_ACTION_PATH": "/the/action",
            "GITHUB_OUTPUT": str(output),
            "RUNNER_TEMP": str(self._folder),
        }
        done = subprocess.run(
            ["/bin/bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", self._stubbed(step["run"])],
            cwd=self._folder / "workspace",
            env=environment | {"PATH": f"{self._folder / 'stubs'}:{os.environ['PATH']}"},
            check=False,
        )
        self.outputs |= dict(line.split("=", 1) for line in output.read_text().splitlines())
        return done.returncode

    def _stubbed(self, script):
        return script.replace("/usr/bin/python3", str(self._folder / "stubs" / "python3"))

    def _value(self, expression):
        return self._inputs[expression[1].removeprefix("inputs.")]

    def of(self, program):
        """Return the arguments of a program that was called once."""
        (words,) = (words for name, *words in self.calls if name == program)
        return words


def test_the_kernel_of_the_runner(tmp_path):
    """Nothing for virtual machines is installed. As root, no sudo is needed, which containers lack."""
    run = Run(tmp_path, tool="tool.toml")
    folder = run.outputs["folder"]
    assert run.status == 0
    assert run.of("pip") == ["install", "--quiet", "/the/action"]
    files = ["--junit", f"{folder}/junit.xml", "--badge", f"{folder}/badge.svg", "--output", f"{folder}/pages"]
    assert run.of("lab") == ["judge", "--fail-on", ",".join(FAILING), *files, "--", "tool.toml"]
    assert not any("sudo" in words or "qemu-system-x86" in words for words in run.calls)


def test_other_kernels(tmp_path):
    """Each is one word. The emulator is installed."""
    run = Run(tmp_path, tool="tool.toml", kernels=" 5.10  6.1 newest")
    words = run.of("lab")
    assert words[words.index("--kernel") + 1 :] == ["5.10", "6.1", "newest", "--", "tool.toml"]
    assert run.of("pip")[-1] == "/the/action[vm]"
    assert any("qemu-system-x86" in words for words in run.calls)


def test_without_root(tmp_path):
    """The lab, apt-get and the change of permissions run by sudo. pip does not."""
    run = Run(tmp_path, tool="tool.toml", uid=1000)
    by_sudo = [words[1:] for words in run.calls if words[0] == "sudo"]
    assert [("apt-get" in words, any(it.endswith("/lab") for it in words), "chmod" in words) for words in by_sudo] == [
        (True, False, False),
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


@pytest.mark.parametrize("hostile", ["$(touch owned)", "a b'\"; touch owned #", "--help", "`touch owned`"])
def test_inputs_are_not_code(tmp_path, hostile):
    """They reach the lab as they are."""
    run = Run(tmp_path, tool=hostile, kernels="6.1", **{"fail-on": hostile})
    words = run.of("lab")
    assert words[-1] == hostile
    assert words[words.index("--fail-on") + 1] == hostile
    assert list((tmp_path / "workspace").iterdir()) == []


@pytest.mark.parametrize("status", [1, 2])
def test_the_verdict_is_the_exit_status(tmp_path, status):
    """The files can be read all the same, and the upload has their folder."""
    run = Run(tmp_path, tool="tool.toml", status=status)
    folder = tmp_path / run.outputs["folder"]
    assert run.status == status
    assert {it.name for it in folder.iterdir()} == {"junit.xml", "badge.svg"}
    assert folder.stat().st_mode & 0o005 == 0o005
    upload = ACTION["runs"]["steps"][-1]
    assert upload["if"].startswith("always()")
    assert upload["with"]["path"] == "${{ steps.judge.outputs.folder }}"
