"""Rules of this project's own suite: root, a results folder for every run, allowed skips, no leaks.

The fixtures and the other rules are those of the plugin that the lab has for any suite (`lab/testing/plugin.py`).
"""

import os
from pathlib import Path

import pytest

from lab import clock
from lab.doctor import capabilities
from lab.ebpf import attach
from lab.errors import LabError
from lab.linux import netns
from lab.linux.instance import Instance
from lab.linux.privileges import require_root
from lab.results import allowed_skips
from lab.testing import plugin

LONGEST = "test_hunt.py"
ALLOWED_SKIPS = Path(__file__).parent / "scenarios" / "allowed_skips.toml"


def pytest_addoption(parser):
    """Add the options of the suite."""
    parser.addoption("--rounds", type=int, default=3, help="random ends of each command (scenarios/robustness)")


def pytest_configure(config):
    """Create the results folder of the run. Workers of pytest-xdist use the folder of their controller."""
    plugin.end_in_order(config)
    if config.option.collectonly or hasattr(config, "workerinput"):
        return
    try:
        results = plugin.results_of(config)
    except LabError as error:
        pytest.exit(str(error), returncode=2)
    config.option.xmlpath = config.option.xmlpath or str(results.path / "junit.xml")


def pytest_collection_modifyitems(items):
    """Start the longest test first, so that it does not run alone at the end. Mark tests in folders `unit` as `rootless`.

    They need no privileges. Every other test may record.
    """
    items.sort(key=lambda item: item.path.name != LONGEST)
    for item in items:
        if "unit" in item.path.parts:
            item.add_marker(pytest.mark.rootless)
        else:
            plugin.record_again(item)


def pytest_collection_finish(session):
    """End the run with one sentence if the scenarios need root privileges and do not have them."""
    if session.config.option.collectonly or all(item.get_closest_marker("rootless") for item in session.items):
        return
    try:
        require_root()
    except LabError as error:
        pytest.exit(f"{error}; without root, run `pytest -m rootless`", returncode=2)
    _leave_network()


def _leave_network():
    """Give this process a network namespace of its own: `lo` takes one XDP program, and other workers attach theirs."""
    from pyroute2 import IPRoute

    netns.leave()
    with IPRoute() as netlink:
        netlink.link("set", ifname="lo", state="up")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """Fail the run if a skip is not allowed in its lane."""
    if not hasattr(session.config, "workerinput") and any(skipped.why is None for skipped in _skipped(session.config)):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def _skipped(config) -> list[allowed_skips.Skipped]:
    """Return the skips of the run, counted by reason, each with the entry that allows it in this lane."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skips = reporter.stats.get("skipped", []) if reporter else []
    if not skips:
        return []
    reasons = [it.longrepr[2].removeprefix("Skipped: ") for it in skips]
    lane = allowed_skips.Lane(os.uname().release, attach.mechanism(), clock.of_guest())
    return allowed_skips.compared(reasons, allowed_skips.allowed(ALLOWED_SKIPS), lane)


def pytest_terminal_summary(terminalreporter, config):
    """Print the skips of this lane."""
    if not hasattr(config, "workerinput") and (skipped := _skipped(config)):
        terminalreporter.section("skipped in this lane")
        terminalreporter.write_line("\n".join(map(str, skipped)))


@pytest.fixture(scope="session", autouse=True)
def nothing_left():
    """Fail at the end of the run if this process left namespaces, child processes or attached programs."""
    yield
    if os.geteuid() == 0:
        assert [path.name for path in netns.NAMED.glob(f"lab-{Instance.current().name}-*")] == [], (
            "namespaces were not removed"
        )
    assert [path.read_text() for path in Path("/proc/self/task").glob("*/children") if path.read_text()] == []
    open_files = [os.fspath(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not any("bpf_link" in file for file in open_files), "programs were not detached"


@pytest.fixture(scope="session")
def works() -> dict[str, bool]:
    """Return by name whether each capability that the doctor tries is available."""
    return {capability.name: capability.available for capability in capabilities.examine()}
