"""The pytest plugin in suites of other projects that do not use it, and its rules, without root."""

import json
import re

import pytest

pytest_plugins = ["pytester"]

SLOW = ("numpy", "pyroute2", "scapy", "scipy", "matplotlib", "msgspec", "bcc")


@pytest.fixture
def run(pytester):
    """Return a function that runs a suite of one file in a process of its own, in an empty folder without a configuration."""

    def start(text, *options):
        pytester.makepyfile(text)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)

    return start


def test_a_suite_without_the_fixtures_pays_nothing(run, pytester, monkeypatch):
    """Nothing slow is imported, and no folder appears."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    monkeypatch.setenv("LAB_RESULTS", str(pytester.path / "here"))
    done = run("def test_nothing(): pass")
    done.assert_outcomes(passed=1)
    imported = {re.split(r"[.\s]", line.rpartition("|")[2].strip())[0] for line in done.errlines if "|" in line}
    assert "lab" in imported
    assert imported.isdisjoint(SLOW)
    assert not (pytester.path / "here").exists()


def test_only_the_fixtures_need_root(run):
    """They fail with one sentence."""
    done = run(
        """
        import os
        import pytest

        @pytest.fixture(autouse=True, scope="session")
        def somebody():
            os.geteuid = lambda: 1

        def test_nothing(): pass
        def test_network(net): pass
        """
    )
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines(["*run it as root (sudo)*"])
    done.stdout.no_fnmatch_line("*Traceback*")


def test_what_the_kernel_lacks_is_skipped(run):
    """The reason is the error's sentence, in a test and in its fixtures."""
    done = run(
        """
        import pytest
        from lab.errors import UnsupportedByKernel

        @pytest.fixture
        def lacking():
            raise UnsupportedByKernel("no such hook")

        def test_fixture(lacking): pass
        def test_call(): raise UnsupportedByKernel("no such program")
        """,
        "-rs",
    )
    done.assert_outcomes(skipped=2)
    done.stdout.fnmatch_lines(["*no such hook*", "*no such program*"], consecutive=False)


RERUN = """
    import pytest
    from lab.errors import EventsWithheld, FramesDropped

    failures = []

    @pytest.fixture
    def net():
        '''No network.'''

    def again(*errors):
        failures.append(None)
        if len(failures) <= len(errors):
            raise errors[len(failures) - 1]

    def test_incomplete(net): again(EventsWithheld({"states": 1}), FramesDropped(3))
"""


def test_an_incomplete_recording_is_made_again(run):
    """Both kinds of gap count. The limit is an option."""
    assert run(RERUN).parseoutcomes() == {"passed": 1, "rerun": 2}
    assert run(RERUN, "--lab-reruns", "1").parseoutcomes() == {"failed": 1, "rerun": 1}
    assert run(RERUN, "--lab-reruns", "0").parseoutcomes() == {"failed": 1}


def test_other_failures_are_not_repeated(run):
    """A wrong number fails at once, and so does a test that records nothing."""
    assert run(RERUN.replace('EventsWithheld({"states": 1})', "AssertionError")).parseoutcomes() == {"failed": 1}
    assert run(RERUN.replace("incomplete(net)", "incomplete()")).parseoutcomes() == {"failed": 1}


def test_a_suite_with_its_own_rule_keeps_it(run):
    """A mark of the test, or an option, decides alone."""
    wrong = RERUN.replace('EventsWithheld({"states": 1})', "AssertionError").replace("FramesDropped(3)", "")
    assert run(wrong, "--reruns", "1").parseoutcomes() == {"passed": 1, "rerun": 1}
    marked = wrong.replace("    def test_", "    @pytest.mark.flaky(reruns=1)\n    def test_")
    assert run(marked).parseoutcomes() == {"passed": 1, "rerun": 1}


@pytest.mark.parametrize("missing", ["rerunfailures", "xdist"])
def test_other_plugins_may_be_missing(run, missing):
    """The suite runs with strict markers. Without pytest-rerunfailures an incomplete recording fails."""
    done = run(RERUN, "-p", f"no:{missing}", "--strict-markers")
    assert done.parseoutcomes() == ({"failed": 1} if missing == "rerunfailures" else {"passed": 1, "rerun": 2})
    done.stdout.no_fnmatch_line("*INTERNALERROR*")


LEFT_OUT = """
    import pytest
    from lab.errors import EventsWithheld, UnsupportedByKernel
    from lab.verdict import Judge

    tries = []

    @pytest.fixture
    def net():
        '''No network.'''

    def test_judged(lab): lab.check([Judge("s", "states", "").equal("a", "q", 1, 1)])
    @pytest.mark.parametrize("number", range(2))
    def test_skipped(lab, number): raise UnsupportedByKernel("this kernel has no such hook")
    def test_again(lab):
        tries.append(None)
        if len(tries) == 1:
            raise EventsWithheld({"states": 1})
    def test_failed(lab): raise AssertionError
    def test_not_chosen(lab): ...
    def test_without_numbers(): pytest.skip("of no interest here")
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_says_what_it_has_not_judged(run, pytester, monkeypatch, workers):
    """Tests that judge and were skipped, deselected or failed, and recordings made again; none of the other tests."""
    monkeypatch.setenv("LAB_RESULTS", str(pytester.path / "here"))
    run(
        LEFT_OUT,
        "--numprocesses",
        str(workers),
        "--deselect",
        "test_a_run_says_what_it_has_not_judged.py::test_not_chosen",
    )
    about = json.loads((pytester.path / "here" / "latest" / "run.json").read_text())
    found = {one["what"]: one["why"] for one in about["not_judged"]}
    assert found.pop("1 scenario", None) == (None if workers else "deselected on the command line")
    assert found == {
        "2 scenarios": "this kernel has no such hook",
        "what follows the failure in 1 scenario": "a scenario ends at its first failure",
        "1 recording, made again": "the kernel did not run a probe for some events",
    }


CHECK = """
    import os
    import pytest
    from lab.testing.lab import Lab
    from lab.testing.plugin import results_of
    from lab.verdict import Bracket, Judge

    @pytest.mark.parametrize("number", range(4))
    def test_check(pytestconfig, number, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        judge = Judge("scenario", "states", "raw tracepoint:x")
        Lab(None, lambda: results_of(pytestconfig), "scenario").check([judge.count("it", "events", Bracket(1, 3, 2), number)])
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_results(run, pytester, monkeypatch, workers):
    """The first check makes one folder, in the folder that LAB_RESULTS names, which workers share. The end of the run names it."""
    monkeypatch.setenv("LAB_RESULTS", str(pytester.path / "here"))
    done = run(CHECK, "-n", str(workers))
    done.assert_outcomes(passed=3, failed=1)
    (folder,) = (it for it in (pytester.path / "here").iterdir() if not it.is_symlink())
    assert len((folder / "checks.jsonl").read_text().splitlines()) == 4
    assert '"status": 1' in (folder / "run.json").read_text()
    done.stdout.fnmatch_lines(["*checks against the truth*", f"results: {folder}"])


def test_results_that_cannot_be_written(run, pytester, monkeypatch):
    """The test fails with the sentence, and the run ends as usual."""
    (pytester.path / "file").touch()
    monkeypatch.setenv("LAB_RESULTS", str(pytester.path / "file" / "here"))
    done = run(CHECK.replace("range(4)", "range(1, 2)"))
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*cannot write results to *set LAB_RESULTS to another folder*"])
    done.stdout.no_fnmatch_line("*INTERNALERROR*")
