"""The wheel: built, installed into a fresh environment, and used in an empty folder while the checkout is hidden.

The environment sees the distributions that the wheel declares as its dependencies, and no other. They are links to those of
this environment: nothing is downloaded.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.foreign import SUITE
from support.processes import HUNG_S

from lab.paths import CHECKOUT

BUILT_FROM = ("bpf", "docs", "lab", "wire", "setup.py", "pyproject.toml", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
NO_DOWNLOAD = ("--no-index", "--no-deps")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a copy of the files that a wheel is built from: a build writes beside them."""
    folder = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        copy = shutil.copytree if (CHECKOUT / name).is_dir() else shutil.copy
        copy(CHECKOUT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def environment(source, tmp_path_factory):
    """Return the folder of a fresh environment with the wheel and its dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    built(*PIP, "wheel", *NO_DOWNLOAD, "--no-build-isolation", "--wheel-dir", folder / "wheel", source)
    (wheel,) = (folder / "wheel").iterdir()
    assert "-py3-none-linux_" in wheel.name
    fresh = create(folder / "env", "--system-site-packages")
    built(*PIP, "--python", fresh / "bin" / "python", "install", *NO_DOWNLOAD, wheel)
    for needed in dependencies(lab_in(fresh), {"pytest"}):
        link(needed, site(fresh))
    return fresh


def built(*command):
    subprocess.run(command, check=True, timeout=HUNG_S, stdout=sys.stderr, stderr=subprocess.STDOUT)


def create(folder, *options):
    """Create an environment by the distribution's Python, as users do."""
    built(Path(sys.base_prefix, "bin", "python3"), "-m", "venv", "--without-pip", *options, folder)
    return folder


def site(environment):
    """Return the folder of an environment's packages."""
    return next((environment / "lib").glob("python3*")) / "site-packages"


def lab_in(environment):
    """Return the lab's distribution in an environment."""
    (installed,) = distributions(name="tcp-truth-lab", path=[str(site(environment))])
    return installed


def dependencies(root, extras):
    """Return the distributions that one needs with its extras, and those that they need."""
    found, waiting = {}, [(root, extras)]
    for needing, wanted in waiting:
        for requirement in map(Requirement, needing.requires or ()):
            applies = not requirement.marker or any(requirement.marker.evaluate({"extra": it}) for it in ("", *wanted))
            if applies and requirement.name not in found:
                found[requirement.name] = distribution(requirement.name)
                waiting.append((found[requirement.name], requirement.extras))
    return found.values()


def link(needed, place):
    """Link to the packages and modules of a distribution, unless it is one of the system's."""
    home = Path(needed.locate_file(""))
    if home.is_relative_to(sys.prefix):
        for name in {file.parts[0] for file in needed.files} - {"..", "__pycache__"}:
            if not (place / name).exists():
                (place / name).symlink_to(home / name)


@pytest.fixture
def run(environment, tmp_path):
    """Return a function that runs a program of the environment in an empty folder, while the checkout is hidden."""
    hidden = [it for it in CHECKOUT.iterdir() if not Path(sys.prefix).is_relative_to(it)]
    hide = [
        f"mount {'-t tmpfs none' if it.is_dir() else '--bind /dev/null'} {shlex.quote(str(it))}"
        for it in hidden
        if not it.is_symlink()
    ]
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in {"LAB_RESULTS", "PYTHONPATH", "VIRTUAL_ENV"} and not name.startswith("PYTEST")
    }

    def start(program, *words, **more):
        script = "\n".join(["set -e", *hide, 'exec "$@"'])
        return subprocess.run(
            ["/usr/bin/unshare", "--mount", "/bin/bash", "-c", script, "bash", environment / "bin" / program, *words],
            cwd=tmp_path,
            env=variables | more,
            capture_output=True,
            text=True,
            timeout=HUNG_S,
            check=False,
        )

    assert not start("python", "-c", f"print(*open('{CHECKOUT}/pyproject.toml'))").stdout.strip()
    return start


def test_the_demo(run, tmp_path):
    """Its results are in the current folder, and it leaves nothing else there."""
    done = run("lab", "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every measured value is consistent with the truth" in done.stdout
    assert (tmp_path / "results" / "latest" / "checks.jsonl").stat().st_size
    assert [it.name for it in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize(
    "words", [["doctor"], ["states", "--seconds", "0.2"], ["bench", "--help"]], ids=lambda it: it[0]
)
def test_commands(run, tmp_path, words):
    """They compile the BPF sources of the package, and write nothing to the current folder."""
    done = run("lab", *words, LAB_CACHE="off")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_a_package_of_an_extra(run, environment, tmp_path):
    """The option that needs it says how to install it, before anything is observed."""
    done = run("lab", "layers", "--plot", "requests.svg")
    pip = f"{environment / 'bin' / 'python'} -m pip install"
    sentence = f"lab: this command needs matplotlib, which is not installed: run `{pip} matplotlib=="
    assert (done.returncode, done.stderr[: len(sentence)]) == (2, sentence)
    assert list(tmp_path.iterdir()) == []


def test_judging(run, tmp_path):
    """A tool of the wheel and one described in the current folder are judged, and a site is written."""
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ncommand = ["sh", "-c", "exit 127"]\nready.text = "ready"\n[[quantity]]\nkind = "states"\n'
    )
    done = run("lab", "judge", "lab-states", "mine.toml", "--case", "S1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[2].split()[-3:] in (["right", "not", "asked"], ["lost", "not", "asked"])
    done = run("lab", "site", "latest", "-o", "pages")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "What a table of verdicts can and cannot say" in (tmp_path / "pages" / "ethics.html").read_text()


def test_the_suite_of_another_project(run, tmp_path):
    """It uses the plugin, and the relay of the wheel."""
    (tmp_path / "test_foreign.py").write_text(SUITE)
    done = run("python", "-m", "pytest", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
    assert {it.name for it in tmp_path.iterdir()} - {"__pycache__"} == {"results", "test_foreign.py"}


def test_an_environment_without_bcc(environment, tmp_path):
    """One sentence says what to install, and how the environment must be created."""
    alone = create(tmp_path / "alone")
    (site(alone) / "lab.pth").write_text(f"{site(environment)}\n")
    done = subprocess.run(
        [alone / "bin" / "python", "-m", "lab", "states", "--seconds", "0.1"],
        env=os.environ | {"LAB_CACHE": "off"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    (sentence,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert sentence.startswith("lab: BCC cannot be loaded (No module named 'bcc'): install the package python3-bpfcc")
    assert "--system-site-packages" in sentence


@pytest.fixture
def make(source, environment, tmp_path):
    """Return a function that makes a target for a prefix in which the packages are there already. It is run with the prefix."""
    shutil.copy(CHECKOUT / "Makefile", source)
    prefix = tmp_path / "prefix"
    home = prefix / "lib" / "tcp-truth-lab"
    built(Path(sys.base_prefix, "bin", "python3"), "-m", "venv", "--system-site-packages", home)
    shutil.rmtree(site(home) / "setuptools")
    for needed in (*dependencies(lab_in(environment), ()), distribution("setuptools")):
        link(needed, site(home))
    variables = {f"PIP_{name}": "1" for name in ("NO_INDEX", "NO_DEPS")} | {"PIP_NO_BUILD_ISOLATION": "0"}

    def run(target):
        command = ["make", "--no-print-directory", target, f"PREFIX={prefix}"]
        done = subprocess.run(
            command, cwd=source, env=os.environ | variables, capture_output=True, text=True, timeout=HUNG_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, prefix

    return run


def test_make_install(make, source):
    """The command is a link into an environment of its own, and uninstalling it leaves no file."""
    said, prefix = make("install")
    command = prefix / "bin" / "lab"
    assert said == f"installed lab {lab_in(prefix / 'lib' / 'tcp-truth-lab').version} as {command}\n"
    assert not (source / "build").exists()
    assert (
        "usage: lab states"
        in subprocess.run([command, "states", "-h"], capture_output=True, text=True, check=True).stdout
    )
    for code in ("bash-completion/completions/lab", "zsh/site-functions/_lab"):
        assert "_python_argcomplete lab" in (prefix / "share" / code).read_text()
    make("uninstall")
    assert [it for it in prefix.rglob("*") if not it.is_dir()] == []


def test_a_source_distribution(source, tmp_path):
    """It holds every file that a wheel is built from."""
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {str(it.relative_to(CHECKOUT)) for it in (CHECKOUT / "lab").rglob("*.py")}
    expected |= {str(it.relative_to(CHECKOUT)) for it in (CHECKOUT / "wire").rglob("*.[ch]")}
    expected |= {str(it.relative_to(CHECKOUT)) for it in (CHECKOUT / "bpf").rglob("*.[ch]")}
    assert names >= expected | {"setup.py", "pyproject.toml", "lab/report/templates/page.html"}
