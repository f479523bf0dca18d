"""The search for contradictions: what it finds is shrunk, written, read, and told apart from what cannot be judged."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from lab.cli import main
from lab.commands import hunt as hunt_command
from lab.errors import LabError
from lab.hunt.experiment import Experiment
from lab.hunt.finder import Hunt, search
from lab.network.conditions import Conditions
from lab.traffic.demo.conversation import Conversation
from lab.verdict import Bracket, Judge

PROBES = ("layers", "rtt", "states")


def checks(*, right):
    """Return the checks of an experiment: one right number, and one that may be wrong."""
    judge = Judge("hunt", "states", "somewhere")
    return [
        judge.count("flow", "rows", Bracket.exactly(1), 1),
        judge.count("flow", "rows", Bracket.exactly(1), 1 if right else 2),
    ]


def found(hold, seconds=60):
    """Search with a function in the place of the kernel."""
    return search(hold, PROBES, first_seed=1, seconds=seconds)


def test_smallest_contradiction():
    """What has no part in the contradiction is shrunk away."""
    hunt = found(lambda it: checks(right=it.conversation.exchanges < 2 or "rtt" not in it.watched_by))
    smallest = hunt.found.experiment
    assert (smallest.conversation.exchanges, smallest.watched_by) == (2, ("rtt",))
    assert smallest.conversation == Conversation(size_bits=8, exchanges=2)
    assert (smallest.wire, smallest.busy, smallest.connections, smallest.version) == (None, 0, 1, 4)
    assert hunt.found.sentences == ["rows of flow: states reports 2, the truth is 1"]
    assert hunt.repeated


def test_an_experiment_that_cannot_be_held():
    """A failure of the lab is a contradiction as well."""

    def hold(experiment):
        if experiment.wire and experiment.wire.to_server.loss:
            raise LabError("the client has not ended")
        return checks(right=True)

    hunt = found(hold)
    assert hunt.found.sentences == ["the client has not ended"]
    assert hunt.found.experiment.wire.to_client == Conditions()


def test_nothing_judged(monkeypatch, capsys):
    """A search in which the kernel withheld events from each experiment has found nothing out, and fails."""
    monkeypatch.setattr(hunt_command, "require_root", lambda: None)
    monkeypatch.setattr(hunt_command, "grounds", lambda: nullcontext(SimpleNamespace(hold=None)))
    monkeypatch.setattr(hunt_command.probes, "here", lambda: PROBES)
    monkeypatch.setattr(hunt_command, "search", lambda *_, **__: Hunt(held=3, withheld=3))
    assert main(["hunt"]) == 1
    printed = capsys.readouterr().out
    assert "No number was judged: nothing is known about the probes." in printed
    assert "contradiction" not in printed


def test_nothing_found():
    """The time ends the search; what the kernel withheld is counted, and is no contradiction."""
    hunt = found(lambda it: None if it.version == 6 else checks(right=True), seconds=1)
    assert hunt.found is None
    assert 0 < hunt.withheld < hunt.held
    assert hunt.checks == 2 * (hunt.held - hunt.withheld)


def test_seeds_repeat():
    """The same seed gives the same experiments, another seed gives others."""

    def drawn(seed):
        seen = []

        def hold(experiment):
            seen.append(experiment)
            return checks(right=len(seen) < 20)

        search(hold, PROBES, first_seed=seed, seconds=60)
        return seen[:20]

    assert drawn(5) == drawn(5) != drawn(6)


def test_a_contradiction_that_does_not_repeat():
    """It is told, and said not to repeat."""
    failures = iter([False, False, True])
    hunt = found(lambda _: checks(right=not next(failures, False)))
    assert hunt.found
    assert not hunt.repeated


def test_files(tmp_path):
    """An experiment survives its file."""
    kept = []
    found(lambda it: kept.append(it) or checks(right=True), seconds=0.5)
    for experiment in kept[:20]:
        experiment.write(tmp_path / "hunt.json")
        assert Experiment.read(tmp_path / "hunt.json") == experiment


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "No such file"),
        ("{}", "missing required field"),
        ('{"conversation": {"size_bits": 7}}', "messages of 7 bits cannot be sent"),
        ("[" * 10_000, "lab: "),
    ],
)
def test_files_of_others(tmp_path, capsys, content, sentence):
    """A file that is no experiment is one sentence."""
    path = tmp_path / "hunt.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert main(["hunt", "--replay", str(path)]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
