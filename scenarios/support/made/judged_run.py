"""Runs as `lab judge` leaves them, made by hand: any verdicts, any names."""

from pathlib import Path

import msgspec

from lab.judging.description import Description
from lab.judging.finding import Finding, Verdict
from lab.judging.happened import Happened
from lab.judging.judgement import EVIDENCE, FILE, Evidence, Judgement, Product, to_json
from lab.judging.quantity import Quantity
from lab.judging.stage import Printed
from support.made.run_folder import folder

CLEAN = "a" * 40
OTHER = "b" * 40
CHANGED = "c" * 40 + "+"
KERNEL = "6.18.44"


def product(
    tool: str = "tcpstates", version: str = "1.0", kernel: str = KERNEL, attach: str = "frames", **more
) -> Product:
    """Return a product."""
    return Product(tool, version, kernel, attach, **more)


def finding(verdict: Verdict, **more) -> Finding:
    """Return a finding: a time, 1 ms above its interval unless it is right."""
    told = 20_500_000 if verdict == Verdict.RIGHT else 22_000_000
    values = {
        "quantity": "time in SYN_SENT", "subject": "192.0.2.1:40000 -> 192.0.2.2:9999", "unit": "ns", "low": 20_000_000,
        "high": 21_000_000, "told": told, "distance": 0 if verdict == Verdict.RIGHT else 1_000_000,
        "known_by": "the timestamps around the calls", "rows": ["SYN_SENT -> ESTABLISHED 22.000"],
    }  # fmt: skip
    return Finding(verdict=verdict, **(values | more))


def judged(
    one: Product,
    verdicts: dict[str, str],
    *,
    revision: str = CLEAN,
    kinds: tuple[str, ...] = ("states",),
    output: str = "SYN_SENT -> ESTABLISHED 22.000\n",
    log: str = '{"role":"client","calls":[]}',
    experiment: str = "ordinary-4",
    **more,
) -> list[tuple[Judgement, Evidence]]:
    """Return judgements of a product by case; they share the evidence of one experiment. `more`: fields of the judgement."""
    quantities = [
        Quantity(kind, start="syn_seen", end="first_end_seen") if kind == "duration" else Quantity(kind)
        for kind in kinds
    ]
    tool = Description(one.tool, ["tcpstates", "-w"], quantities, attach=one.attach)
    evidence = Evidence(one, tool, Happened(experiment, log=[log]), Printed(output, status=0))
    return [
        (
            msgspec.structs.replace(
                Judgement(
                    one,
                    case,
                    f"what {case} asks",
                    Verdict(verdict),
                    {verdict: 2},
                    [finding(Verdict(verdict)), finding(Verdict(verdict), quantity="time in CLOSE_WAIT")],
                    definitions=[quantities[0].definition],
                    revision=revision,
                ),
                **more,
            ),
            evidence,
        )
        for case, verdict in verdicts.items()
    ]


def judged_run(
    path: Path, *parts: list[tuple[Judgement, Evidence]], started: str = "2026-11-30T08:00:00", **more
) -> Path:
    """Make the folder of a run with these judgements. `more`: as for `folder`."""
    folder(path, started=started, **({"status": 0} | more))
    (path / EVIDENCE).mkdir()
    with (path / FILE).open("w") as file:
        for number, part in enumerate(parts):
            name = f"{EVIDENCE}/{number}.json"
            for one, evidence in part:
                (path / name).write_text(to_json(evidence))
                file.write(to_json(msgspec.structs.replace(one, evidence=name)) + "\n")
    return path
