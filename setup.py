"""The parts of a wheel that setuptools does not build by itself: the BPF sources and the C programs, inside the package.

A checkout has them beside the package: `bpf/`, and `.venv/bin`, which `make` fills. `lab/paths.py` finds either. An editable
install therefore builds nothing here.
"""

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

PROGRAMS = {"lab-relay": "wire/relay/relay.c", "lab-tap": "wire/tap.c", "lab-load": "wire/load.c"}
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-pthread")


class BuildPackage(build_py):
    """Build the package, with the folders `bpf`, `docs` and `bin` in it."""

    def run(self):
        """Copy the modules, the BPF sources and the documentation, and compile the C programs."""
        if self.editable_mode:
            super().run()
            return
        package = Path(self.build_lib, "lab")
        shutil.rmtree(package, ignore_errors=True)  # files of an earlier build that the checkout has no more
        super().run()
        for folder in ("bpf", "docs"):
            shutil.copytree(folder, package / folder)
        (package / "bin").mkdir()
        for program, source in PROGRAMS.items():
            compile_program(source, package / "bin" / program)

    def get_source_files(self):
        """Return the files of a source distribution. It holds everything that a wheel is built from."""
        return [*super().get_source_files(), *(str(it) for it in files_below("bpf", "docs", "wire"))]


class Compiled(Distribution):
    """A package with compiled parts. setuptools concludes from this that a wheel fits one kind of machine only."""

    def has_ext_modules(self):
        """Return true."""
        return True


class BuildWheel(bdist_wheel):
    """A wheel for one kind of machine and any Python 3: its programs are compiled, its modules are not."""

    def get_tag(self):
        """Return the tag of the wheel: Python, ABI, platform."""
        return "py3", "none", super().get_tag()[2]


def compile_program(source, target):
    """Compile one C program. Ends with one sentence if there is no compiler."""
    compiler = os.environ.get("CC", "gcc")
    try:
        subprocess.run([compiler, *FLAGS, "-o", target, source], check=True)
    except FileNotFoundError:
        raise SystemExit(f"{compiler} is missing: install the packages gcc and libc6-dev") from None


def files_below(*folders):
    """Return all files below these folders."""
    return sorted(path for folder in folders for path in Path(folder).rglob("*") if path.is_file())


setup(distclass=Compiled, cmdclass={"build_py": BuildPackage, "bdist_wheel": BuildWheel})
