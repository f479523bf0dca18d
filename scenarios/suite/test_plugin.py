"""The fixtures of the pytest plugin in a suite of another project, with real networks."""

import pytest
from support.foreign import SUITE

pytest_plugins = ["pytester"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_foreign_suite(pytester, monkeypatch, workers):
    """Every fixture works outside the checkout, and the results are in the folder that LAB_RESULTS names."""
    monkeypatch.setenv("LAB_RESULTS", str(pytester.path / "results"))
    pytester.makepyfile(SUITE)
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n", str(workers))
    outcomes = done.parseoutcomes()
    outcomes.pop("rerun", None)  # an incomplete recording
    assert outcomes == {"passed": 6}
    done.stdout.fnmatch_lines(["*checks: every measured value is consistent with the truth*", "results: *"])
    assert (pytester.path / "results" / "latest" / "checks.jsonl").stat().st_size
