"""Run the conformance suite: put cases to tools, and keep the judgements with their evidence in a run's folder."""

import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from lab.errors import LabError
from lab.judging import cases, judgement, reading
from lab.judging.case import Case, Experiment
from lab.judging.description import Description
from lab.judging.finding import Verdict
from lab.judging.happened import Happened
from lab.judging.judgement import EVIDENCE, FILE, NOBODY, Evidence, Judgement, Product
from lab.judging.running import version
from lab.judging.stage import Printed, Stage
from lab.network.topology import topology
from lab.output.file import replacing
from lab.results.writer import Results, commit

Step = Callable[[str], None]

_ROUNDS = 3  # with the tool and without it, if the traffic was disturbed


def chosen(names: Sequence[str], kinds: Sequence[str] = ()) -> list[Case]:
    """Return the cases with these names, all without names; only those of some kinds if any are given."""
    every = {case.name: case for case in cases.every()}
    if unknown := [name for name in names if name not in every]:
        raise LabError(f"there is no case {unknown[0]}: choose from {', '.join(every)}")
    found = [every[name] for name in dict.fromkeys(names)] or list(every.values())
    return [case for case in found if not kinds or set(kinds) & set(case.kinds)]


def judge(
    tools: Sequence[Description], wanted: Sequence[Case], results: Results, *, quick: bool = False, step: Step
) -> Iterator[Judgement]:
    """Put cases to each tool, and yield each judgement when it is written."""
    revision = commit() or ""
    (results.path / EVIDENCE).mkdir(exist_ok=True)
    for tool in tools:
        mine = [case for case in wanted if case.asks(tool)]
        product = Product(tool.name, version(tool), os.uname().release, tool.attach, tool.project, tool.ours)
        for found in _of_tool(tool, product, mine, results, revision, quick=quick, step=step):
            results.append(FILE, judgement.to_json(found) + "\n")
            yield found


def verdicts(
    tool: Description, wanted: Sequence[Case], *, quick: bool, step: Step
) -> Iterator[tuple[Case, Verdict, str]]:
    """Put cases to one tool and keep nothing. Yield each case with its verdict and the tool's own words."""
    product = Product(tool.name, "", os.uname().release, tool.attach)
    for experiment, those in _by_experiment([case for case in wanted if case.asks(tool)]).items():
        step(f"{tool.name}: {', '.join(case.name for case in those)}")
        evidence = _observed(tool, product, experiment, those[0].name, quick=quick, step=step)
        for case in those:
            verdict, _, why = judgement.judged(case, evidence)
            yield case, verdict, why


def _of_tool(
    tool: Description,
    product: Product,
    mine: Sequence[Case],
    results: Results,
    revision: str,
    *,
    quick: bool,
    step: Step,
) -> Iterator[Judgement]:
    if not mine:
        return
    ready = f", waiting for `{tool.ready.text}`" if tool.ready.text else ""
    step(f"{tool.name}: a control case without traffic{ready}")
    stage = Stage([tool], f"nobody-{secrets.token_hex(4)}", quick=quick, step=step)
    evidence = Evidence(product, tool, _nobody(stage), stage.printed[tool])
    file = _keep(results.path, evidence)
    made_up = judgement.invented(evidence)
    refused = evidence.printed.refused and not evidence.printed.unknown_case
    for experiment, those in _by_experiment(mine).items():
        if made_up or refused:
            verdict, why = (
                (Verdict.NOT_COMPLIANT, "it told something of traffic that never was")
                if made_up
                else (Verdict.CANNOT_RUN, evidence.printed.refused)
            )
            for case in those:
                yield Judgement(product, case.name, case.text, verdict, {}, made_up, why, [], None, file, revision)
            continue
        step(f"{tool.name}: {', '.join(case.name for case in those)}")
        found = _observed(tool, product, experiment, those[0].name, quick=quick, step=step)
        name = _keep(results.path, found)
        for case in those:
            yield judgement.judgement(case, found, file=name, revision=revision)


def _by_experiment(mine: Sequence[Case]) -> dict[Experiment, list[Case]]:
    found: dict[Experiment, list[Case]] = {}
    for case in mine:
        found.setdefault(case.experiment, []).append(case)
    return found


def _observed(
    tool: Description, product: Product, experiment: Experiment, case: str, *, quick: bool, step: Step
) -> Evidence:
    """Run an experiment in front of a tool. If its traffic was disturbed, find out whether the tool did that.

    It did if the traffic is disturbed each time with the tool, and not each time without it: a busy machine sends segments
    again as well.
    """
    stage = Stage([tool], case, quick=quick, step=step)
    happened = experiment(stage)
    alone: list[bool] = []
    while happened.disturbed and len(alone) < _ROUNDS:
        alone.append(bool(experiment(Stage([], case, quick=quick, step=step)).disturbed))
        stage = Stage([tool], case, quick=quick, step=step)
        happened = experiment(stage)
    changed = happened.disturbed if not all(alone) else []
    printed = stage.printed.get(tool, Printed())
    output, foreign = reading.without_foreign(tool, printed.output, happened.port)
    printed = msgspec.structs.replace(printed, output=output, foreign=foreign)
    return Evidence(product, tool, happened, printed, changed)


def _nobody(stage: Stage) -> Happened:
    """Build a network and send nothing."""
    with topology() as net:
        with stage.watching(net) as observed:
            pass
        return stage.happened(NOBODY, net, observed)


def _keep(folder: Path, evidence: Evidence) -> str:
    """Write the evidence of one tool and experiment; returns its path within the run's folder."""
    tool = re.sub(r"[^\w.]+", "-", evidence.product.tool).strip("-")
    name = f"{EVIDENCE}/{tool}-{evidence.happened.experiment}.json"
    number = 1
    while (folder / name).exists():  # another description with this name
        number += 1
        name = f"{EVIDENCE}/{tool}-{evidence.happened.experiment}-{number}.json"
    with replacing(folder / name) as file:
        file.write(judgement.to_json(evidence))
    return name
