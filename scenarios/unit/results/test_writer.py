"""The folder of a run: what `latest` points to, and what run.json says of the attach points."""

import json

from lab.results.writer import LATEST, RUN, Results
from lab.verdict import Bracket, Judge


def test_latest_is_a_run_that_has_ended(tmp_path, monkeypatch):
    """A run that was interrupted does not take the place of the newest whole one."""
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    whole = Results.create()
    whole.finish()
    whole.path.rename(tmp_path / "whole")
    Results(tmp_path / "whole").finish()
    Results.create()
    assert (tmp_path / LATEST).resolve() == tmp_path / "whole"


def test_attach_points(tmp_path, monkeypatch):
    """Each attach point of a probe once; a check without one adds none."""
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    results = Results.create()
    for places in ("tc:egress (tcx), tc:ingress (tcx)", "", "tc:ingress (tcx), xdp:frame (generic)"):
        results.add([Judge("s", "flows", places).count("f", "packets", Bracket.exactly(1), 1)])
    results.finish()
    found = json.loads((results.path / RUN).read_text(encoding="utf-8"))["attach_points"]
    assert found == {"flows": ["tc:egress (tcx)", "tc:ingress (tcx)", "xdp:frame (generic)"]}
