"""What changed between two runs of `lab judge`."""

import json

from support.made.judged_run import judged, judged_run, product
from support.processes import lab_command

from lab.judging.changes import changes


def verdicts(**cases):
    return [judgement for judgement, _ in judged(product(), cases)]


def test_changes():
    """Graver verdicts come first. The same verdict is no change, unless its intervals became more than twice as wide."""
    before = verdicts(S1="right", S2="wrong", S3="right", S4="right", S6="right")
    after = verdicts(S1="wrong", S2="right", S3="right", S4="right", S5="right")
    before[3] = judged(product(), {"S4": "right"}, widths_ns=(1000, 2000))[0][0]
    after[3] = judged(product(), {"S4": "right"}, widths_ns=(2001, 2000))[0][0]
    assert [(it.kind, it.case) for it in changes(before, after)] == [
        ("graver", "S1"),
        ("blunter", "S4"),
        ("better", "S2"),
        ("only after", "S5"),
        ("only before", "S6"),
    ]


def test_another_version_of_a_tool_is_compared():
    """The version is shown, and another kernel is another line."""
    before = [judged(product(version="1.0"), {"S1": "right"})[0][0]]
    after = [
        judged(product(version="1.1"), {"S1": "wrong"})[0][0],
        judged(product(kernel="6.1"), {"S1": "right"})[0][0],
    ]
    assert [it.kind for it in changes(before, after)] == ["graver", "only after"]


def test_the_command(tmp_path):
    """`lab compare` shows changed verdicts beside everything else."""
    folders = [
        judged_run(tmp_path / name, judged(product(), {"S1": verdict}))
        for name, verdict in (("a", "right"), ("b", "wrong"))
    ]
    done = lab_command("compare", *map(str, folders))
    assert done.returncode == 0, done.stderr
    assert "graver" in done.stdout
    assert [
        lab_command("compare", *map(str, folders), "--fail-on", kind).returncode
        for kind in ("graver,blunter", "better", "x")
    ] == [1, 0, 2]
    shown = json.loads(lab_command("compare", *map(str, folders), "--json").stdout)["judgements"]
    assert shown == [{"kind": "graver", "tool": "tcpstates", "case": "S1", "before": "right", "after": "wrong"}]
