"""Change the probes and what judges them at random, and count the changes that the scenarios notice (`make mutants`).

A mutant that has the instructions of the original, that the compiler or the verifier refuses, or that stands in
`equivalent.toml` is not counted. Each other one runs against the scenarios of its probe first, then against those of all. In
each group, the scenarios that have noticed most mutants are the first.
"""

import argparse
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from operators import Mutant, of_c, of_python

CHECKOUT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
HANGS_S = 900
"""A mutant that takes longer is noticed: no stage takes half as long."""
MEASURES = ("lab/probes", "lab/truth", "lab/judging", "lab/verdict.py", "lab/arrays.py", "lab/log2_histogram.py")
"""Python that decides about numbers and verdicts."""
NOT_MEASURED = ("cli.py", "output.py", "show.py", "picture.py", "text.py", "running.py", "stage.py", "suite.py")
LEFT_OUT = ("test_hunt", "test_wheel", "test_plugin", "test_contributing", "test_third_party_apps", "test_load")
"""Scenarios of the suite that repeat others with other programs, or take long."""

FIRST = 15
"""How many scenarios are moved to the front of their group."""
VARIANTS = (
    "", "NO_ETHERNET=1", "SNAPLEN=256", "AT_TC=1 SNAPLEN=256", "KEEP_SRTT=0 BUCKET_UNIT_US=1000",
    "KEEP_RTT=0 BY_LADDR=0 BY_RADDR=0 BY_PORTS=0",
)  # fmt: skip
"""Definitions that commands of the lab give to the compiler: a change can be in code that only some have."""

CHECK = """
import hashlib, sys
from pathlib import Path
from lab.ebpf import compiler
from lab.ebpf.program import Program
from lab.ebpf.source import text_of
from lab.errors import LabError
source = Path(sys.argv[1])
text = text_of(source)
for variant in map(str.split, sys.argv[2:]):
    if not all(it.partition("=")[0] in text for it in variant):
        continue
    try:
        spec = compiler.compile_source(source, variant)
    except LabError as error:
        sys.exit(3)
    print(hashlib.sha256(spec.to_bytes()).hexdigest())
    try:
        Program(source, variant)
    except LabError as error:
        sys.exit(4)
"""


@dataclass
class Verdict:
    """What became of a mutant: `killed` (`by` a scenario), `survived`, `equal`, `refused`, `not compiled` or `equivalent`."""

    mutant: Mutant
    line: int
    text: str
    verdict: str
    by: str = ""
    seconds: float = 0.0

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(
            {**self.mutant._asdict(), **{key: value for key, value in vars(self).items() if key != "mutant"}}
        )


class Copy:
    """A copy of the checkout, in which one mutant at a time stands."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for name in _git("ls-files"):
            target = place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target)
        (place / ".venv").symlink_to(CHECKOUT / ".venv")
        self._environment = os.environ | {
            "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1", "LAB_RESULTS": str(place / "results"),
            "XDG_CACHE_HOME": str(place / "cache"),
        }  # fmt: skip

    def run(self, *words: str) -> subprocess.CompletedProcess[str] | None:
        """Run a command in the copy; None if it hangs."""
        try:
            return subprocess.run(
                words,
                cwd=self.place,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=HANGS_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None

    def compiled(self, program: str) -> tuple[int, str]:
        """Compile and load a program; return the status of `CHECK` and what identifies the instructions."""
        done = self.run(sys.executable, "-c", CHECK, str(self.place / program), *VARIANTS)
        return (1, "") if done is None else (done.returncode, done.stdout)

    def failing(self, stage: Sequence[str], noticed: Counter[str]) -> str:
        """Return the first scenario of a stage that fails, empty if none does. `noticed`: how many mutants each has noticed."""
        if missing := [word for word in stage if word.startswith("scenarios/") and not (self.place / word).exists()]:
            raise FileNotFoundError(f"pytest fails without running anything: there is no {', '.join(missing)}")
        shutil.rmtree(self.place / "results", ignore_errors=True)
        (self.place / "results").mkdir()
        places = [word for word in stage if word.startswith("scenarios/")]
        first = [name for name, _ in noticed.most_common() if name.startswith(tuple(places))][:FIRST]
        words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *first, *stage]
        if (done := self.run(*words)) is None:
            return "hangs"
        if done.returncode in (0, 5):  # 5: no tests
            return ""
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        return found[1] if found else f"status {done.returncode}"


def _git(*words: str) -> list[str]:
    return subprocess.check_output(["/usr/bin/git", *words], cwd=CHECKOUT, text=True).splitlines()


def programs_of() -> dict[str, list[str]]:
    """Return for each file of `bpf/` the programs that contain it."""
    found: dict[str, list[str]] = {}
    for program in sorted(Path(CHECKOUT, "bpf").glob("*.c")):
        waiting, seen = [program], set()
        while waiting:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            found.setdefault(str(path.relative_to(CHECKOUT)), []).append(f"bpf/{program.name}")
            names = re.findall(r'^#include "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
            places = [(path.parent / name, CHECKOUT / "bpf" / name) for name in names]
            waiting += [next(it.resolve() for it in both if it.exists()) for both in places]
    return found


def measuring() -> list[str]:
    """Return the Python files that decide about numbers and verdicts."""
    return [
        name
        for name in _git("ls-files", *MEASURES)
        if name.endswith(".py") and Path(name).name not in NOT_MEASURED and not name.endswith("__init__.py")
    ]


def stages_of(mutant: Mutant, programs: dict[str, list[str]]) -> Iterator[list[str]]:
    """Yield the arguments of pytest for each stage, the most telling first."""
    every = ["scenarios/suite", "-k", f"not {' and not '.join(LEFT_OUT)}"]
    if mutant.file.startswith("bpf/"):
        if mutant.file.startswith("bpf/include/"):  # the scenarios of all probes take minutes
            yield ["scenarios/ebpf"]
        folders = [f"scenarios/probes/{Path(program).stem}" for program in programs[mutant.file]]
        if folders := [name for name in folders if (CHECKOUT / name).is_dir()]:
            yield [*folders, "-m", "not rootless"]
        yield ["scenarios/ebpf", "scenarios/network"]
        yield every
        return
    parts = Path(mutant.file).parts
    if parts[1] == "probes":
        if (CHECKOUT / f"scenarios/probes/{parts[2]}/unit").is_dir():  # pytest fails without it
            yield [f"scenarios/probes/{parts[2]}/unit"]
        yield [f"scenarios/probes/{parts[2]}"]
    elif parts[1] == "truth":
        yield ["scenarios/unit/truth"]
    elif parts[1] == "judging":
        yield ["scenarios/unit/judging"]
        yield ["scenarios/commands/test_judge.py", "scenarios/docs/test_judge_your_tool.py"]
    yield ["scenarios/unit"]
    yield every
    yield ["scenarios/probes", "-m", "not rootless"]


def judged(
    mutant: Mutant,
    copy: Copy,
    programs: dict[str, list[str]],
    original: dict[str, str],
    noticed: Counter[str],
    stages: int | None,
) -> Verdict:
    """Run a mutant against the scenarios, or their first stages, until one fails."""
    path, began = copy.place / mutant.file, time.monotonic()
    text = (CHECKOUT / mutant.file).read_text(encoding="utf-8")
    found = Verdict(mutant, mutant.line(text), text.splitlines()[mutant.line(text) - 1].strip(), "survived")
    if (mutant.file, mutant.operator, found.text, mutant.after) in _equivalent():
        found.verdict = "equivalent"
        return found
    path.write_text(mutant.applied(text), encoding="utf-8")
    try:
        if mutant.file.startswith("bpf/"):
            differs = False
            for program in programs[mutant.file]:
                status, instructions = copy.compiled(program)
                if status in (3, 4) or status < 0:  # below 0: the compiler was ended by a signal
                    found.verdict = "refused" if status == 4 else "not compiled"
                    return found
                differs |= instructions != original[program]
            if not differs:
                found.verdict = "equal"
                return found
        for stage in itertools.islice(stages_of(mutant, programs), stages):
            if failing := copy.failing(stage, noticed):
                found.verdict, found.by = "killed", failing
                noticed[failing] += 1
                break
    finally:
        path.write_text(text, encoding="utf-8")
        found.seconds = round(time.monotonic() - began, 1)
    return found


def _equivalent() -> set[tuple[str, str, str, str]]:
    listed = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("equivalent", [])
    return {(it["file"], it["operator"], it["text"], it["after"]) for it in listed}


def drawn(files: Iterable[str], seed: int) -> list[Mutant]:
    """Return the mutants of the files in a random order."""
    every: list[Mutant] = []
    for name in files:
        text = (CHECKOUT / name).read_text(encoding="utf-8")
        every += (of_python if name.endswith(".py") else of_c)(name, text)
    random.Random(seed).shuffle(every)  # noqa: S311 (a sample)
    return every


def survivors(results: Path) -> list[Mutant]:
    """Return the mutants of a file of results that survived."""
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return [Mutant(*(row[name] for name in Mutant._fields)) for row in rows if row["verdict"] == "survived"]


def _noticed(results: Path) -> Iterator[str]:
    """Yield the scenario that noticed each mutant of earlier runs, if it still exists."""
    for path in results.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            by = json.loads(line)["by"]
            if "::" in by and (CHECKOUT / by.partition("::")[0]).exists():
                yield by


def main() -> int:
    """Draw mutants, judge them, and print the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=("bpf", "python"), default="bpf", help="which files (%(default)s)")
    parser.add_argument("--sample", type=int, metavar="N", help="number of mutants that count (30; with --again all)")
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="only files whose name contains this, such as flows.c"
    )
    parser.add_argument("--since", metavar="REV", help="only files that have changed since this commit")
    parser.add_argument("--seed", type=int, default=1, help="order in which mutants are drawn (%(default)s)")
    parser.add_argument("--minutes", type=float, default=1e9, metavar="N", help="start no mutant later")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="mutants at a time (%(default)s)")
    parser.add_argument("--stages", type=int, metavar="N", help="run only the first N groups of scenarios of each")
    parser.add_argument("--again", type=Path, metavar="FILE", help="only those that survived in this file of results")
    args = parser.parse_args()
    programs = programs_of()
    files = sorted(programs) if args.of == "bpf" else measuring()
    files = [name for name in files if args.only in name]
    if args.since:
        files = sorted(set(files) & set(_git("diff", "--name-only", args.since)))
    mutants, found = iter(survivors(args.again) if args.again else drawn(files, args.seed)), list[Verdict]()
    sample = args.sample or (sys.maxsize if args.again else 30)
    until = time.monotonic() + 60 * args.minutes
    results = CHECKOUT / "results" / "mutants"
    results.mkdir(parents=True, exist_ok=True)
    noticed = Counter(_noticed(results))
    name = f"{args.again.stem}-again" if args.again else f"{args.of}-{args.seed}"
    with (
        TemporaryDirectory(prefix="lab-mutants-") as folder,
        (results / f"{name}.jsonl").open("w") as file,
    ):
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(args.jobs):
            copies.put(Copy(Path(folder, str(number))))
        copy = copies.get()
        every = sorted({*itertools.chain(*programs.values())}) if args.of == "bpf" else []
        original = {name: copy.compiled(name)[1] for name in every}
        copies.put(copy)

        def work() -> None:
            copy = copies.get()
            while counted(found) < sample and time.monotonic() < until and (mutant := next(mutants, None)):
                one = judged(mutant, copy, programs, original, noticed, args.stages)
                found.append(one)
                file.write(one.to_json() + "\n")
                file.flush()
                if one.verdict in ("killed", "survived"):
                    print(
                        f"{one.verdict:8} {mutant.file}:{one.line}: {one.text}  ->  {mutant.after}  {one.by}",
                        flush=True,
                    )

        with ThreadPoolExecutor(args.jobs) as threads:
            for each in [threads.submit(work) for _ in range(args.jobs)]:
                each.result()
    numbers = Counter(one.verdict for one in found)
    others = [f"{number} {verdict}" for verdict, number in numbers.items() if verdict not in ("killed", "survived")]
    print(
        f"\n{counted(found)} mutants, {numbers['killed'] / max(1, counted(found)):.1%} killed; not counted: {', '.join(others)}"
    )
    for one in found:
        if one.verdict == "survived":
            print(f"survived: {one.mutant.file}:{one.line}: {one.mutant.operator}: {one.text}  ->  {one.mutant.after}")
    return int(numbers["survived"] > 0)


def counted(found: Sequence[Verdict]) -> int:
    """Return how many mutants count."""
    return sum(one.verdict in ("killed", "survived") for one in found)


if __name__ == "__main__":
    sys.exit(main())
