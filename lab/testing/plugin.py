"""The pytest plugin: networks, recordings and verdicts for tests, as root.

| fixture | what a test gets |
|---|---|
| `net` | two hosts and a wire (`Topology`). `parametrize("net", ["switch"], indirect=True)` names another network |
| `topology` | a function that builds any network: `topology(network="dnat")`, `topology(Relay())` |
| `observe` | a function that records what the test does: `with observe("states") as observed:` |
| `judge_tool` | a function that judges a tool by its description: `judge_tool("mytool.toml", "D1")` (`lab judge`) |
| `lab` | conversations of two applications on `net`, and the verdict on each number (`lab.testing.lab.Lab`) |

Networks are removed when the test ends. A test that needs what this kernel lacks is skipped. If the kernel withheld
events or dropped frames, a test with one of these fixtures is run again, by pytest-rerunfailures if that is installed.

pytest loads this module in every run of an environment that has the lab. So it imports nothing slow before a test uses a
fixture, and the first check creates the results folder.
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.errors import LabError, UnsupportedByKernel, remedy
from lab.paths import results

if TYPE_CHECKING:
    from lab.judging.judgement import Judgement
    from lab.network.topology import Topology
    from lab.observation import Observed
    from lab.results.schema import NotJudged
    from lab.results.writer import Results
    from lab.testing.lab import Lab

RECORDING = frozenset({"lab", "net", "observe", "topology"})
"""The fixtures by which a test is known as one that records."""

JUDGES = "judges"
"""The keyword of a test that judges: a run in which none of them has judged a number has failed."""

_INCOMPLETE = "^(EventsWithheld|FramesDropped): "
_AGAIN = {
    "EventsWithheld": "the kernel did not run a probe for some events",
    "FramesDropped": "the kernel dropped frames between the hosts",
}
"""Why a recording is made again, by the name of the error."""

_RUN = pytest.StashKey[Path]()
_RESULTS = pytest.StashKey["Results"]()
_ORDERLY = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the plugin."""
    parser.getgroup("lab", "TCP truth lab").addoption(
        "--lab-reruns",
        type=int,
        default=5,
        metavar="N",
        help="run a test again, at most N times, if the kernel withheld events or dropped frames (5)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the results folder of the run, which workers of pytest-xdist share. It is not created here."""
    # Tests may change the current folder, so the path is made here.
    name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"
    config.stash[_RUN] = Path(_from_controller(config).get("lab_run") or results() / name)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the path of the results folder to a worker of pytest-xdist."""
    node.workerinput["lab_run"] = str(node.config.stash[_RUN])
    node.workerinput["lab_controller"] = os.getpid()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let a test that records be run again, and give one that judges a keyword, which its reports have too."""
    if "lab" in getattr(item, "fixturenames", ()):
        item.keywords[JUDGES] = True
    if RECORDING.intersection(getattr(item, "fixturenames", ())):
        record_again(item)


def record_again(item: pytest.Item) -> None:
    """Run a test again if the kernel withheld events or dropped frames, and for no other failure.

    A `flaky` mark of the test and `--reruns` of the command line take precedence. Does nothing without
    pytest-rerunfailures.
    """
    config = item.config
    reruns = config.getoption("lab_reruns")
    chosen = item.get_closest_marker("flaky") or config.getoption("reruns", None) is not None
    if reruns and not chosen and config.pluginmanager.hasplugin("rerunfailures"):
        item.add_marker(pytest.mark.flaky(reruns=reruns, only_rerun=[_INCOMPLETE]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Skip a test that raises `UnsupportedByKernel`. The reason is the error's message."""
    try:
        return (yield)
    except UnsupportedByKernel as error:
        pytest.skip(str(error))


pytest_runtest_call = pytest_runtest_setup


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """End with one sentence if the results cannot be written."""
    try:
        return (yield)
    except (LabError, OSError) as error:
        sentence = str(error) if isinstance(error, LabError) else remedy(error)
        if sentence is None or not session.config.stash[_RUN].is_dir():
            raise
        pytest.exit(sentence, returncode=2)


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter", config: pytest.Config) -> None:
    """Print every failed check, how sharp the checks were, a summary, and their folder, if there is one.

    The run fails if no number was judged although it has tests that judge.
    """
    # The hook also runs in workers, which know a part of the results only.
    reports = [it for some in terminalreporter.stats.values() for it in some if isinstance(it, pytest.TestReport)]
    judging = len({it.nodeid for it in reports if JUDGES in it.keywords})
    if _from_controller(config) or not (judging or config.stash[_RUN].is_dir()):
        return
    from lab.results import check_table, sharpness

    run = results_of(config)
    run.note(not_judged=_not_judged(terminalreporter.stats))
    columns = run.finish()
    session: Any = config.pluginmanager.get_plugin("session")
    if judging and not len(columns.rows):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    run.note(status=int(session.exitstatus))
    terminalreporter.section("checks against the truth")
    if failed := list(columns.failed()):
        terminalreporter.write_line(f"{check_table.table(failed)}\n")
    if len(columns.rows):
        terminalreporter.write_line(f"{sharpness.table(columns)}\n")
    terminalreporter.write_line(f"{sharpness.summary(columns, judging)}\nresults: {run.path}")


def _not_judged(stats: dict[str, list[Any]]) -> "list[NotJudged]":
    """Return what the tests that judge have not judged, and why: skipped, deselected, failed, or recorded again."""
    from lab.results.schema import NotJudged

    reports = {kind: [it for it in some if JUDGES in getattr(it, "keywords", ())] for kind, some in stats.items()}
    whys = Counter(it.longrepr[2].removeprefix("Skipped: ") for it in reports.get("skipped", []))
    found = [NotJudged(_number(count, "scenario"), why) for why, count in whys.most_common()]
    if deselected := reports.get("deselected"):
        found.append(NotJudged(_number(len(deselected), "scenario"), "deselected on the command line"))
    if failed := [it for kind in ("failed", "error") for it in reports.get(kind, [])]:
        what = _number(len({it.nodeid for it in failed}), "scenario")
        found.append(NotJudged(f"what follows the failure in {what}", "a scenario ends at its first failure"))
    again = Counter(
        next((why for name, why in _AGAIN.items() if name in it.longreprtext), "run again by pytest")
        for it in reports.get("rerun", [])
    )
    return found + [NotJudged(f"{_number(count, 'recording')}, made again", why) for why, count in again.items()]


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def results_of(config: pytest.Config) -> "Results":
    """Return the results of the run. The first call creates their folder; raises `LabError` if that is impossible."""
    if _RESULTS not in config.stash:
        from lab.results.writer import Results

        path = config.stash[_RUN]
        if path.is_dir():  # the controller's run, or that of another worker
            config.stash[_RESULTS] = Results(path)
        else:
            config.stash[_RESULTS] = _created(path, shared=bool(_from_controller(config)))
    return config.stash[_RESULTS]


def _created(path: Path, *, shared: bool) -> "Results":
    from lab.results.writer import Results

    try:
        return Results.create(path)
    except LabError as error:
        if shared and isinstance(error.__cause__, FileExistsError):  # another worker was faster
            return Results(path)
        raise


def end_in_order(config: pytest.Config) -> None:
    """Let the first signal end the run, and no later one interrupt the removal of networks.

    A controller of pytest-xdist that is killed ends its workers, each of which removes what it has built.
    """
    if config.stash.get(_ORDERLY, False) or threading.current_thread() is not threading.main_thread():
        return
    from lab.linux.syscalls import signal_on_parent_death
    from lab.signals import ending

    config.stash[_ORDERLY] = True
    handlers = ExitStack()
    handlers.enter_context(ending(interrupt=True))
    config.add_cleanup(handlers.close)
    if controller := _from_controller(config).get("lab_controller"):
        signal_on_parent_death(signal.SIGTERM, controller)


def _from_controller(config: pytest.Config) -> dict[str, Any]:
    """Return what a worker of pytest-xdist knows from its controller; {} in any other process."""
    return getattr(config, "workerinput", {})


def _begin(config: pytest.Config) -> None:
    """Prepare this process for networks and programs. Fails the test, with one sentence, without root."""
    from lab.linux.privileges import require_root

    try:
        require_root()
    except LabError as error:
        pytest.fail(str(error), pytrace=False)
    end_in_order(config)


@pytest.fixture
def topology(pytestconfig: pytest.Config) -> "Iterator[Callable[..., Topology]]":
    """Return a function that builds networks for one test; arguments as for `lab.network.topology.topology`."""
    _begin(pytestconfig)
    from lab.network.topology import topology as built

    with ExitStack() as networks:
        yield lambda *link, **how: networks.enter_context(built(*link, **how))


@pytest.fixture
def net(request: pytest.FixtureRequest) -> "Iterator[Topology]":
    """Two hosts and a wire, for one test only. A test gets another network by `parametrize("net", [...], indirect=True)`."""
    _begin(request.config)
    from lab.network.topology import topology as built

    with built(network=getattr(request, "param", "wire")) as net:
        yield net


@pytest.fixture
def observe(request: pytest.FixtureRequest) -> "Callable[..., AbstractContextManager[Observed]]":
    """Return a function that records with probes, by name, while a block runs: `observe("states", "rtt")`.

    It records on the fixture `net`, or on the network `net=`. Further arguments as for `lab.observation.observing`.
    """
    _begin(request.config)
    from lab.observation import observing

    def start(*probes: str, net: "Topology | None" = None, **how: Any) -> "AbstractContextManager[Observed]":
        return observing(net or request.getfixturevalue("net"), probes=probes, **how)

    return start


@pytest.fixture
def judge_tool(request: pytest.FixtureRequest) -> "Callable[..., dict[str, Judgement]]":
    """Return a function that puts cases, by default all of its kinds, to a tool.

    The tool is the path of its description, or the name of one that comes with the lab. The function returns the
    judgements by case, and keeps their evidence in the run's folder. It fails if a verdict is one of `fail_on`.
    """
    _begin(request.config)
    from lab.judging import description, show, suite
    from lab.judging.finding import FAILING, Verdict

    def judge(
        tool: str | os.PathLike[str], *cases: str, fail_on: tuple[Verdict, ...] = FAILING, quick: bool = False
    ) -> "dict[str, Judgement]":
        tools, wanted = description.named([os.fspath(tool)]), suite.chosen(cases)
        judged = suite.judge(tools, wanted, results_of(request.config), quick=quick, step=lambda _: None)
        found = {one.case: one for one in judged}
        if any(one.verdict in fail_on for one in found.values()):
            pytest.fail(show.report(list(found.values())), pytrace=False)
        return found

    return judge


@pytest.fixture
def lab(net: "Topology", request: pytest.FixtureRequest) -> "Lab":
    """Return a `lab.testing.lab.Lab` on the test's own network."""
    from lab.testing.lab import Lab

    return Lab(net, partial(results_of, request.config), request.node.name)
