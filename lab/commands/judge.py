"""Judge a TCP tool by what it prints of traffic with known truth.

TOOL is the file of a description, or the name of one that comes with the lab;
without TOOL all of these are judged. Each case causes traffic in which tools are
known to be wrong. The evidence of every verdict is kept in results/<run>/.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.bench.chapters import corpus
from lab.bench.context import Bench
from lab.bench.cost import cost_of
from lab.bench.show import tables
from lab.clock import REAL
from lab.errors import LabError
from lab.judging import cases, description, judgement, show, suite
from lab.judging.case import Case
from lab.judging.description import Description
from lab.judging.finding import FAILING, Verdict
from lab.judging.judgement import Judgement
from lab.judging.kinds import KINDS
from lab.linux.privileges import require_root
from lab.output.file import replacing, require_writable
from lab.output.terminal import progress
from lab.results.reader import RunFolder
from lab.results.writer import Results
from lab.units import duration_ns
from lab.vm import lane
from lab.vm.machine import Machine, kvm_works, require_guests

EXAMPLES = """\
examples:
  lab judge mytool.toml                       every case of the kinds that it claims
  lab judge mytool.toml --case S2 D1          two cases
  lab judge mytool.toml --fail-on wrong,missing --junit judge.xml
  lab judge mytool.toml --kernel this 6.1 6.12 --output pages
  lab judge --list                            cases, kinds, and the tools that come with the lab
  lab judge --points                          the points between which times are measured
  lab judge --replay latest                   judge a kept run again, without a kernel
  lab judge corrected.toml --replay latest    by a corrected description
"""
DETAILS = """\
details:
  docs/judge-your-tool.md explains descriptions, docs/ethics.md what a verdict
  can and cannot say. A tool is judged by its own definition.

  Exit status: 0 if no verdict is one of --fail-on, 1 if one is or if no tool could
  run, 2 if the command line or a description is wrong.
"""

_THIS = "this"
_EVIDENCE = "evidence: "
_CPUS, _MEMORY = 2, "4G"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "tools", nargs="*", metavar="TOOL", help="file of a description, or name of a tool of the lab (default: all)"
    )
    parser.add_argument("--case", nargs="+", default=[], metavar="CASE", help="only these cases")
    parser.add_argument(
        "--kind", nargs="+", default=[], metavar="KIND", choices=KINDS, help="only cases of these kinds"
    )
    parser.add_argument(
        "-k",
        "--kernel",
        nargs="+",
        default=[_THIS],
        metavar="KERNEL",
        help=f"kernels, as for `lab vm`; `{_THIS}` is the running one (default)",
    )
    parser.add_argument(
        "--limit",
        type=duration_ns,
        default=duration_ns("7200s"),
        metavar="TIME",
        help="end a guest after this time (7200s)",
    )
    parser.add_argument("--cost", action="store_true", help="also measure what each tool costs (use an idle machine)")
    parser.add_argument("--quick", action="store_true", help="smaller loads")
    parser.add_argument(
        "--fail-on",
        type=_verdicts,
        default=FAILING,
        metavar="VERDICTS",
        help=f"exit with 1 at one of these, separated by commas; `never` for none (default: {','.join(FAILING)})",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each judgement")
    parser.add_argument("--all", action="store_true", help="also print what was right, and every finding")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="also write pages, as `lab site` does")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML")
    parser.add_argument("--badge", type=Path, metavar="FILE", help="also write an SVG badge")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--list", action="store_true", help="list the cases, kinds and tools")
    shown.add_argument("--points", action="store_true", help="list the points between which times are measured")
    shown.add_argument(
        "--replay", type=Path, metavar="RUN", help="judge the kept evidence of a run again, of TOOL by its description"
    )


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
    if args.kernel != [_THIS]:
        require_guests()
    found: list[Judgement] = []
    folders: list[Path] = []
    try:
        for kernel in args.kernel:
            if kernel == _THIS:
                _here(tools, wanted, args, folders, found)
            else:
                _in_guest(kernel, args, folders, found)
    except (LabError, KeyboardInterrupt):
        if found:  # verdicts that are there are shown, whatever came after them
            _show(found, folders, args)
        raise
    _write(found, folders, args)
    _show(found, folders, args)
    return _status(found, args)


def _show(found: Sequence[Judgement], folders: Sequence[Path], args: argparse.Namespace) -> None:
    if not args.json:
        print(show.report(found, everything=args.all))
        print("".join(f"{_costs(folder)}\n" for folder in folders if args.cost), end="")
    print("\n".join(f"{_EVIDENCE}{folder}" for folder in folders), file=sys.stderr if args.json else sys.stdout)


def _status(found: Sequence[Judgement], args: argparse.Namespace) -> int:
    """Return 1 if a verdict is one of --fail-on, or if no tool could run."""
    nothing = not any(one.numbers for one in found) and any(one.verdict is Verdict.CANNOT_RUN for one in found)
    return int(any(one.verdict in args.fail_on for one in found) or (nothing and bool(args.fail_on)))


def _write(found: Sequence[Judgement], folders: Sequence[Path], args: argparse.Namespace) -> None:
    """Write the files that the command line asks for."""
    if args.junit:
        with replacing(args.junit) as file:
            show.write_junit(file, found, args.fail_on)
    if args.badge:
        with replacing(args.badge) as file:
            file.write(show.badge(found))
    if args.output:
        from lab.report import site  # noqa: PLC0415 (imports Jinja, which other uses do not need)

        site.write([RunFolder.open(folder) for folder in folders], args.output)


def _here(
    tools: Sequence[Description],
    wanted: Sequence[Case],
    args: argparse.Namespace,
    folders: list[Path],
    found: list[Judgement],
) -> None:
    """Judge the tools on this kernel; adds the run's folder and each judgement."""
    results = Results.create()
    folders.append(results.path)
    with progress() as step:
        for one in suite.judge(tools, wanted, results, quick=args.quick, step=step):
            found.append(one)
            if args.json:
                print(judgement.to_json(one), flush=True)
        costs = list(cost_of(tools, Bench(quick=True, step=step))) if args.cost else []
    for row in costs:
        results.measured(row)
    results.note(status=_status(found, args))
    results.finish()


def _costs(folder: Path) -> str:
    """Return the tables of cost of a run, empty if none was measured."""
    rows = RunFolder.open(folder).measurements
    return "\n".join(tables(row for row in rows if row.figure != corpus.FIGURE))


def _in_guest(name: str, args: argparse.Namespace, folders: list[Path], found: list[Judgement]) -> None:
    """Judge the tools on another kernel, in a virtual machine; as `_here`."""
    kernel = lane.kernel(name)
    guest = Machine(REAL, _CPUS, _MEMORY, kvm=kvm_works(kernel))
    tools = [str(Path(word).absolute()) if Path(word).is_file() else word for word in args.tools]
    options = [*(["--case", *args.case] if args.case else []), *(["--kind", *args.kind] if args.kind else [])]
    options += [f"--{name}" for name in ("quick", "cost") if getattr(args, name)]
    command = lane.python(REAL, "-P", "-m", "lab", "judge", *options, "--fail-on", "never", "--", *tools)
    _, printed = lane.in_guest(kernel, guest, command, limit_s=args.limit / 1e9)
    lines = [line.removeprefix(_EVIDENCE).strip() for line in printed.splitlines() if line.startswith(_EVIDENCE)]
    if not lines:
        raise LabError(f"`lab judge` did not finish on {kernel.name}: its output is above")
    folders.append(Path(lines[0]))
    found += judgement.read(folders[-1])


def _replay(args: argparse.Namespace) -> int:
    if args.output:
        raise LabError("--output writes pages of kept judgements: use `lab site` for a run")
    folder = RunFolder.open(args.replay).path
    tools, wanted = description.named(args.tools) if args.tools else [], suite.chosen(args.case, args.kind)
    kept = {before.product.tool for before in judgement.read(folder)}
    if missing := [tool.name for tool in tools if tool.name not in kept]:
        raise LabError(
            f"{folder} has evidence of {', '.join(sorted(kept))}, and none of {missing[0]}: keep the name in the description"
        )
    pairs = [pair for pair in judgement.replayed(folder, tools) if pair[0].case in {case.name for case in wanted}]
    if not pairs:
        raise LabError(f"{folder} keeps no evidence of these cases: give the folder of a run of `lab judge`")
    _write([after for _, after in pairs], [folder], args)
    if args.json:
        print("\n".join(judgement.to_json(after) for _, after in pairs))
    else:
        print(show.report([after for _, after in pairs], everything=args.all))
        changed = [(before, after) for before, after in pairs if before.verdict != after.verdict]
        print(f"{len(pairs)} judgements from kept evidence, {len(changed)} with another verdict than in the run")
        for before, after in changed:
            print(f"  {after.product.tool}, {after.case}: {before.verdict} -> {after.verdict}")
    return _status([after for _, after in pairs], args)
