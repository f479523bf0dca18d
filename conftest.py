"""What every scenario may ask for, and what holds for the suite as a whole: root, results, nothing left behind."""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import clock, probes
from lab.doctor import capabilities
from lab.ebpf import attach
from lab.errors import LabError, UnsupportedByKernel
from lab.linux.instance import Instance, require_root
from lab.linux.netns import NAMED
from lab.network.topology import Topology, topology
from lab.observation import Observed, observe
from lab.results import allowed_skips, check_table
from lab.results.writer import Results
from lab.traffic.demo.conversation import Conversation
from lab.verdict import Bracket, Check, Judge

ALLOWED_SKIPS = Path(__file__).parent / "scenarios" / "allowed_skips.toml"
LEAST_TOLERANCE_NS = 100_000
RESULTS_KEY = pytest.StashKey[Results]()


def pytest_configure(config):
    """Make the run's results folder; parallel workers share their controller's."""
    shared = getattr(config, "workerinput", {}).get("results")
    if shared:
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
    """Tell a worker of pytest-xdist where the results go."""
    node.workerinput["results"] = str(node.config.stash[RESULTS_KEY].path)


def pytest_collection_modifyitems(items):
    """Mark everything in a folder `unit` as needing no privileges."""
    for item in items:
        if "unit" in item.path.parts:
            item.add_marker(pytest.mark.rootless)


def pytest_collection_finish(session):
    """Say at once, in one sentence, when the scenarios cannot run here."""
    if session.config.option.collectonly or all(item.get_closest_marker("rootless") for item in session.items):
        return
    try:
        require_root()
    except LabError as error:
        pytest.exit(f"{error}; without, `pytest -m rootless` runs what needs no privileges", returncode=2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    """Skip what this kernel cannot do, here and nowhere else: the capability that refuses it gives the reason."""
    try:
        return (yield)
    except UnsupportedByKernel as error:
        pytest.skip(str(error))


pytest_runtest_call = pytest_runtest_setup


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """Fail the run for a skip that its lane may not have."""
    if not hasattr(session.config, "workerinput") and any(skipped.why is None for skipped in _skipped(session.config)):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def _skipped(config) -> list[allowed_skips.Skipped]:
    """Count what was skipped, by reason, beside what this lane may skip."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    left_out = reporter.stats.get("skipped", []) if reporter else []
    if not left_out:
        return []
    reasons = [it.longrepr[2].removeprefix("Skipped: ") for it in left_out]
    lane = allowed_skips.Lane(os.uname().release, attach.mechanism(), clock.of_guest())
    return allowed_skips.compared(reasons, allowed_skips.allowed(ALLOWED_SKIPS), lane)


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    """Show what this lane left out, and the verdicts, the failed ones in full."""
    # Workers come here too, and what they know is not the whole.
    if RESULTS_KEY not in config.stash or hasattr(config, "workerinput"):
        return
    if skipped := _skipped(config):
        terminalreporter.section("what this lane cannot do")
        terminalreporter.write_line("\n".join(map(str, skipped)))
    results = config.stash[RESULTS_KEY]
    results.note(status=int(exitstatus))
    checks = results.finish()
    terminalreporter.section("checks against the truth")
    if failed := [check for check in checks if not check.passed]:
        terminalreporter.write_line(check_table.table(failed))
    terminalreporter.write_line(f"{check_table.summary(checks)}\nresults: {results.path}")


@dataclass
class Lab:
    """A topology, ways to cause traffic on it under observation, and the place where verdicts go."""

    net: Topology
    results: Results
    scenario: str

    def converse(self, conversation: Conversation, **how) -> Observed:
        """Hold conversations under observation, to their end (arguments as for `lab.observation.observe`)."""
        with observe(self.net, conversation, **how) as observed:
            pass
        return observed

    def observe(self, conversation: Conversation, **how) -> AbstractContextManager[Observed]:
        """As `converse`; inside the block the conversations are under way (`demo`)."""
        return observe(self.net, conversation, **how)

    def judge(self, probe: str, observed: Observed) -> list[Check]:
        """Judge a probe on what was observed; fails when a value is provably wrong."""
        return self.check(self._judged(probe, observed))

    def states(self, observed: Observed) -> list[Check]:
        """Judge the probe `states` on what was observed; fails when a value is provably wrong."""
        return self.judge("states", observed)

    def many_states(self, observed: Observed) -> None:
        """As `states`, for so many connections that only wrong values are noted, and how many connections are complete.

        Events that the kernel withheld from the probe may be missing, each in one place, and nothing else may be wrong.
        """
        checks = self._judged("states", observed)
        complete = [check for check in checks if check.quantity == "state sequence" and check.passed]
        wrong = [check for check in checks if check.quantity != "state sequence" and not check.passed]
        judge = Judge(self.scenario, checks[0].probe, checks[0].attach_point, checks[0].lost)
        sockets = 2 * len(observed.connections)
        bracket = Bracket(sockets - observed.recording.missing("states"), sockets, sockets)
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
        """Note checks in the results and fail when one of them is outside its bracket."""
        checks = self.results.add(checks)
        wrong = [check.sentence() for check in checks if not check.passed]
        assert checks, "a scenario without a check proves nothing"
        assert not wrong, f"{len(wrong)} of {len(checks)} checks are provably wrong:\n" + "\n".join(wrong[:20])
        return checks

    def exact(self, checks: Iterable[Check]) -> list[Check]:
        """As `check`; and where time is virtual the error may be 100 us or 0.5 % of the injected delay, whichever is larger."""
        if clock.of_guest() == clock.VIRTUAL:
            checks = [check.within(max(LEAST_TOLERANCE_NS, check.low // 200)) for check in checks]
        return self.check(checks)


@pytest.fixture(scope="session", autouse=True)
def nothing_left():
    """Fail at the end when anything of this process's own doing is still there: a leak is a defect."""
    yield
    if os.geteuid() == 0:
        assert [path.name for path in NAMED.glob(f"lab-{Instance.current().name}-*")] == [], "namespaces are left"
    assert [path.read_text() for path in Path("/proc/self/task").glob("*/children") if path.read_text()] == []
    open_files = [os.fspath(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not any("bpf_link" in file for file in open_files), "programs are still attached"


@pytest.fixture(scope="session")
def works() -> dict[str, bool]:
    """Tell by name what the doctor finds available here."""
    return {capability.name: capability.available for capability in capabilities.examine()}


@pytest.fixture
def net() -> Iterator[Topology]:
    """Two hosts and a wire of the test's own."""
    with topology() as net:
        yield net


@pytest.fixture
def lab(net, request) -> Lab:
    """Hand out the lab, on the test's own network."""
    return Lab(net, request.config.stash[RESULTS_KEY], request.node.name)
