"""Fixtures for all scenarios, and rules for the whole suite: root, a results folder, allowed skips, no leaks."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import clock, probes
from lab.doctor import capabilities
from lab.ebpf import attach
from lab.errors import LabError, UnsupportedByKernel, remedy
from lab.linux.instance import Instance, require_root
from lab.linux.netns import NAMED
from lab.linux.syscalls import signal_on_parent_death
from lab.network.topology import Topology, topology
from lab.observation import Observed, observe
from lab.results import allowed_skips, check_table, sharpness
from lab.results.writer import Results
from lab.signals import ending
from lab.traffic.demo.conversation import Conversation
from lab.verdict import Bracket, Check, Judge

ALLOWED_SKIPS = Path(__file__).parent / "scenarios" / "allowed_skips.toml"
LEAST_TOLERANCE_NS = 100_000
RESULTS_KEY = pytest.StashKey[Results]()


def pytest_addoption(parser):
    """Add the options of the suite."""
    parser.addoption("--rounds", type=int, default=5, help="random ends of each command (scenarios/robustness)")


def pytest_configure(config):
    """Create the results folder of the run. Workers of pytest-xdist use the folder of their controller."""
    # The first Ctrl-C ends the run; what it begins to remove, no second one interrupts.
    handlers = ExitStack()
    handlers.enter_context(ending(interrupt=True))
    config.add_cleanup(handlers.close)
    shared = getattr(config, "workerinput", {}).get("results")
    if shared:
        # A controller that is killed ends its workers, each of which removes what it has built.
        signal_on_parent_death(signal.SIGTERM, config.workerinput["controller"])
        config.stash[RESULTS_KEY] = Results(Path(shared))
    elif not config.option.collectonly:
        try:
            results = Results.create()
        except LabError as error:
            pytest.exit(str(error), returncode=2)
        config.stash[RESULTS_KEY] = results
        config.option.xmlpath = config.option.xmlpath or str(results.path / "junit.xml")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Pass the path of the results folder to a worker of pytest-xdist."""
    node.workerinput["results"] = str(node.config.stash[RESULTS_KEY].path)
    node.workerinput["controller"] = os.getpid()


def pytest_collection_modifyitems(items):
    """Mark every test in a folder `unit` as `rootless`: it needs no privileges."""
    for item in items:
        if "unit" in item.path.parts:
            item.add_marker(pytest.mark.rootless)


def pytest_collection_finish(session):
    """End the run with one sentence if the scenarios need root privileges and do not have them."""
    if session.config.option.collectonly or all(item.get_closest_marker("rootless") for item in session.items):
        return
    try:
        require_root()
    except LabError as error:
        pytest.exit(f"{error}; without root, run `pytest -m rootless`", returncode=2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    """Skip a scenario that raises `UnsupportedByKernel`.

    The reason is the error's message. Scenarios do not skip themselves.
    """
    try:
        return (yield)
    except UnsupportedByKernel as error:
        pytest.skip(str(error))


pytest_runtest_call = pytest_runtest_setup


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """Fail the run if a skip is not allowed in its lane, or, with one sentence, if the results cannot be written."""
    if not hasattr(session.config, "workerinput") and any(skipped.why is None for skipped in _skipped(session.config)):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    try:
        return (yield)
    except (LabError, OSError) as error:
        sentence = str(error) if isinstance(error, LabError) else remedy(error)
        if sentence is None:
            raise
        pytest.exit(sentence, returncode=2)


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
    """Print the skips of this lane, every failed check, and a summary of all checks.

    The run fails if no number was judged although it has tests that judge.
    """
    # The hook also runs in workers, which know a part of the results only.
    if RESULTS_KEY not in config.stash or hasattr(config, "workerinput"):
        return
    if skipped := _skipped(config):
        terminalreporter.section("skipped in this lane")
        terminalreporter.write_line("\n".join(map(str, skipped)))
    results, session = config.stash[RESULTS_KEY], config.pluginmanager.get_plugin("session")
    columns = results.finish()
    reports = [it for some in terminalreporter.stats.values() for it in some if isinstance(it, pytest.TestReport)]
    judging = len({it.nodeid for it in reports if "judges" in it.keywords})  # scenarios/conftest.py
    if judging and not len(columns.rows):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    results.note(status=int(session.exitstatus))
    terminalreporter.section("checks against the truth")
    if failed := list(columns.failed()):
        terminalreporter.write_line(f"{check_table.table(failed)}\n")
    if len(columns.rows):
        terminalreporter.write_line(f"{sharpness.table(columns)}\n")
    terminalreporter.write_line(f"{sharpness.summary(columns, judging)}\nresults: {results.path}")


@dataclass
class Lab:
    """A topology, methods that record conversations on it, and the results folder for their checks."""

    net: Topology
    results: Results
    scenario: str

    def converse(self, conversation: Conversation, **how) -> Observed:
        """Record conversations until they are over; arguments as for `lab.observation.observe`."""
        with observe(self.net, conversation, **how) as observed:
            pass
        return observed

    def observe(self, conversation: Conversation, **how) -> AbstractContextManager[Observed]:
        """Return a context manager like `converse`. The conversations run while the block runs (`demo`)."""
        return observe(self.net, conversation, **how)

    def judge(self, probe: str, observed: Observed) -> list[Check]:
        """Judge the recording of one probe. Fail if a value is provably wrong."""
        return self.check(self._judged(probe, observed))

    def states(self, observed: Observed) -> list[Check]:
        """Judge the recording of the probe `states`. Fail if a value is provably wrong."""
        return self.judge("states", observed)

    def many_states(self, observed: Observed) -> None:
        """Judge `states` on many connections: only wrong values and the number of complete sockets become checks.

        Each event that the kernel withheld from the probe may make one socket incomplete. Every other fault fails.
        """
        checks = self._judged("states", observed)
        complete = [check for check in checks if check.quantity == "state sequence" and check.passed]
        wrong = [check for check in checks if check.quantity != "state sequence" and not check.passed]
        judge = Judge(self.scenario, checks[0].probe, checks[0].attach_point, checks[0].lost)
        sockets = 2 * len(observed.connections)
        bracket = Bracket.late(sockets - observed.recording.missing("states"), sockets)
        self.check(
            [
                *wrong,
                judge.count(f"{len(observed.connections)} connections", "complete sockets", bracket, len(complete)),
            ]
        )

    def _judged(self, probe: str, observed: Observed) -> list[Check]:
        probes.require(probe)
        return probes.judge(probe, observed, self.scenario)

    def check(self, checks: Iterable[Check]) -> list[Check]:
        """Add checks to the results. Fail if one of them did not pass, or if there are none."""
        checks = self.results.add(checks)
        wrong = [check.sentence() for check in checks if not check.passed]
        assert checks, "a scenario needs at least one check"
        assert not wrong, f"{len(wrong)} of {len(checks)} checks are provably wrong:\n" + "\n".join(wrong[:20])
        return checks

    def exact(self, checks: Iterable[Check]) -> list[Check]:
        """Do `check`.

        On the virtual clock, limit each error to 100 us or 0.5 % of the injected delay, whichever is larger.
        """
        if clock.of_guest() == clock.VIRTUAL:
            checks = [check.within(max(LEAST_TOLERANCE_NS, check.low // 200)) for check in checks]
        return self.check(checks)


@pytest.fixture(scope="session", autouse=True)
def nothing_left():
    """Fail at the end of the run if this process left namespaces, child processes or attached programs."""
    yield
    if os.geteuid() == 0:
        assert [path.name for path in NAMED.glob(f"lab-{Instance.current().name}-*")] == [], (
            "namespaces were not removed"
        )
    assert [path.read_text() for path in Path("/proc/self/task").glob("*/children") if path.read_text()] == []
    open_files = [os.fspath(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not any("bpf_link" in file for file in open_files), "programs were not detached"


@pytest.fixture(scope="session")
def works() -> dict[str, bool]:
    """Return by name whether each capability that the doctor tries is available."""
    return {capability.name: capability.available for capability in capabilities.examine()}


@pytest.fixture
def net(request) -> Iterator[Topology]:
    """Two hosts and a wire, for one test only. A test gets another network by `parametrize("net", [...], indirect=True)`."""
    with topology(network=getattr(request, "param", "wire")) as net:
        yield net


@pytest.fixture
def lab(net, request) -> Lab:
    """Return a `Lab` on the test's own network."""
    return Lab(net, request.config.stash[RESULTS_KEY], request.node.name)
