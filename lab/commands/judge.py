"""Judge a TCP tool by what it prints of traffic with known truth.

TOOL is the file of a description, or the name of one that comes with the lab;
without TOOL all of these are judged. Each case causes traffic in which tools are
known to be wrong. The evidence of every verdict is kept in results/<run>/.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError
from lab.judging import cases, description, judgement, show, suite
from lab.judging.finding import Verdict
from lab.judging.kinds import KINDS
from lab.linux.instance import require_root
from lab.output.file import replacing, require_writable
from lab.output.terminal import progress
from lab.results.reader import RunFolder
from lab.results.writer import Results

EXAMPLES = """\
examples:
  lab judge mytool.toml                       every case of the kinds that it claims
  lab judge mytool.toml --case S2 D1          two cases
  lab judge mytool.toml --fail-on wrong,missing --junit judge.xml
  lab judge --list                            cases, kinds, and the tools that come with the lab
  lab judge --points                          the points between which times are measured
  lab judge --replay latest                   judge a kept run again, without a kernel
"""
DETAILS = """\
details:
  docs/judge-your-tool.md explains descriptions, docs/ethics.md what a verdict
  can and cannot say. A tool is judged by its own definition.

  Exit status: 0 if no verdict is one of --fail-on, 1 if one is, 2 if the command
  line or a description is wrong.
"""

_FAILING = (Verdict.WRONG, Verdict.MISSING, Verdict.CRASHED, Verdict.CHANGED, Verdict.NOT_COMPLIANT)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "tools", nargs="*", metavar="TOOL", help="file of a description, or name of a tool of the lab (default: all)"
    )
    parser.add_argument("--case", nargs="+", default=[], metavar="CASE", help="only these cases")
    parser.add_argument(
        "--kind", nargs="+", default=[], metavar="KIND", choices=KINDS, help="only cases of these kinds"
    )
    parser.add_argument("--quick", action="store_true", help="smaller loads")
    parser.add_argument(
        "--fail-on",
        type=_verdicts,
        default=_FAILING,
        metavar="VERDICTS",
        help=f"exit with 1 at one of these, separated by commas; `never` for none (default: {','.join(_FAILING)})",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each judgement")
    parser.add_argument("--all", action="store_true", help="also print what was right, and every finding")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML")
    parser.add_argument("--badge", type=Path, metavar="FILE", help="also write an SVG badge")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--list", action="store_true", help="list the cases, kinds and tools")
    shown.add_argument("--points", action="store_true", help="list the points between which times are measured")
    shown.add_argument("--replay", type=Path, metavar="RUN", help="judge the kept evidence of a run again")


def _verdicts(text: str) -> tuple[Verdict, ...]:
    if text == "never":
        return ()
    try:
        return tuple(Verdict(word.strip()) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"`{text}` has a word that is no verdict: choose from {', '.join(Verdict)}, or write never"
        ) from None


def run(args: argparse.Namespace) -> int:
    """Judge the tools, print each judgement, and return 1 if one fails."""
    if args.list or args.points:
        print(show.points() if args.points else show.listing(description.shipped(), cases.every()))
        return 0
    if args.replay:
        return _replay(args)
    for path in filter(None, (args.junit, args.badge)):
        require_writable(path)
    tools, wanted = description.named(args.tools), suite.chosen(args.case, args.kind)
    if not any(case.asks(tool) for tool in tools for case in wanted):
        raise LabError(
            "none of these cases is put to these tools: `lab judge --list` shows which kinds a case asks for"
        )
    require_root()
    results = Results.create()
    found = []
    with progress() as step:
        for one in suite.judge(tools, wanted, results, quick=args.quick, step=step):
            found.append(one)
            if args.json:
                print(judgement.to_json(one), flush=True)
    return _finish(found, results, args)


def _finish(found: Sequence[judgement.Judgement], results: Results, args: argparse.Namespace) -> int:
    failing = [one for one in found if one.verdict in args.fail_on]
    results.note(status=int(bool(failing)))
    results.finish()
    if args.junit:
        with replacing(args.junit) as file:
            show.write_junit(file, found, args.fail_on)
    if args.badge:
        with replacing(args.badge) as file:
            file.write(show.badge(found))
    if not args.json:
        print(show.report(found, everything=args.all))
        print(f"evidence: {results.path}")
    return int(bool(failing))


def _replay(args: argparse.Namespace) -> int:
    folder = RunFolder.open(args.replay).path
    pairs = list(judgement.replayed(folder))
    if not pairs:
        raise LabError(f"{folder} keeps no evidence: give the folder of a run of `lab judge`")
    if args.json:
        print("\n".join(judgement.to_json(after) for _, after in pairs))
    else:
        print(show.report([after for _, after in pairs], everything=args.all))
        changed = [(before, after) for before, after in pairs if before.verdict != after.verdict]
        print(f"{len(pairs)} judgements from kept evidence, {len(changed)} with another verdict than in the run")
        for before, after in changed:
            print(f"  {after.product.tool}, {after.case}: {before.verdict} -> {after.verdict}")
    return int(any(after.verdict in args.fail_on for _, after in pairs))
