"""Errors whose cause is the machine have one sentence that says what to do; defects have none."""

import sys

import pytest

from lab.errors import remedy


@pytest.mark.parametrize("module", ["matplotlib", "numpy", "scipy"])
def test_a_package_that_is_not_installed(module):
    """The sentence has the command that installs the version that this package declares."""
    sentence = remedy(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert f"needs {module}, which is not installed: run `{sys.executable} -m pip install {module}==" in sentence


@pytest.mark.parametrize("module", ["lab.nowhere", "scipy.nowhere", None])
def test_a_module_that_nobody_has(module):
    """It is a defect, and keeps its traceback."""
    assert remedy(ModuleNotFoundError(name=module)) is None
