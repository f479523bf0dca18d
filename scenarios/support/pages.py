"""Run the code blocks of a page of the documentation in their order, in a folder and a network namespace of its own.

A block is

- a file, if its first line has a title (```toml title="connect.toml"): it is written to the page's folder;
- a session (`console`): each command is run, and must print what is shown below it (`pattern_of` says what may differ).
  A command with `&` at its end runs until the end of the page. `^C` is Ctrl-C;
- a Python program, a file in TOML, JSON or YAML (a workflow of GitHub), or `text`, which is not run.

A comment before a block changes that:

- `<!-- until the next block has run -->`: its command runs beside the next block, and is ended by Ctrl-C;
- `<!-- not run: WHY -->`: its commands are only parsed.
"""

import argparse
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from sybil import Document
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from lab import cli
from lab.errors import EventsWithheld
from lab.paths import CHECKOUT

SERVERS = Path(sys.prefix, "servers", "bin")

INFO = re.compile(r'(?P<language>[\w-]*)(?: title="(?P<title>[\w./-]+)")?[ \t]*\n')
COMMENT = re.compile(r"<!-- ([^\n]*) -->\n+\Z")
PROMPT = re.compile(r"^[#$] ", re.MULTILINE)
INSTANCE = re.compile(r"lab-[0-9a-f]{6}-\d+")
HUNG_S = 60
BESIDE, NOT_RUN = "until the next block has run", "not run: "
INTERRUPT = "^C\n"
# A file of the shell's path that ends as its caller says: `make` only checks that the target exists.
PROGRAMS = {
    "lab": 'exec {bin}/lab "$@" ${{READY_FD:+--ready-fd $READY_FD}}',
    "make": 'exec /usr/bin/make --dry-run --directory {checkout} "$@" >/dev/null',
    "pytest": 'exec {bin}/pytest -p no:cacheprovider "$@"',
    "sudo": 'exec "$@"',
}
# In a shown output, a number stands for any number, and a unit for any unit. Addresses stand for themselves.
TOKENS = re.compile(
    r"""(?P<dots>\s*(?:\.\.\.|…)\s*)
    |(?P<bar>\|[ *.]+\|)
    |(?P<instance>lab-[0-9a-f]{6}-\d+)
    |(?P<address>\d+\.\d+\.\d+\.\d+|[0-9a-f]*:[0-9a-f]*::[0-9a-f]*|(?:[0-9a-f]{2}:){5}[0-9a-f]{2})
    |(?P<pointer>\bffff[0-9a-f]{12}\b)
    |(?P<number>(?<![A-Za-z_])\d+(?:[.,:]\d+)*(?P<unit>\ ?(?:ns|us|ms|s)\b)?)
    |(?P<rule>-{3,})
    |(?P<space>\s+)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
ANY = {
    "dots": r"(?:.|\n)*?",
    "bar": r"\|[ *.]+\|",
    "instance": INSTANCE.pattern,
    "pointer": r"ffff[0-9a-f]{12}",
    "rule": r"-{3,}",
    "space": r"\s+",
}
NUMBER, UNIT = r"\d+(?:[.,:]\d+)*", r"\ ?(?:ns|us|ms|s)"


def pattern_of(shown, command=""):
    """Return the pattern of an output. Numbers of four or five digits that the command names, ports, stand for themselves."""
    ports = set(re.findall(r"\b\d{4,5}\b", command))

    def part(token):
        text, kind = token[0], token.lastgroup if token.lastgroup != "unit" else "number"
        if kind == "number" and text not in ports:
            return NUMBER + (UNIT if token["unit"] else "")
        return ANY.get(kind, re.escape(text))

    return re.compile(r"\s*" + "".join(part(token) for token in TOKENS.finditer(shown.strip())) + r"\s*")


class Command(NamedTuple):
    """A command of a session, and what is shown below it, before and after `^C`."""

    line: str
    shown: str

    @property
    def before(self):
        """What is shown before `^C`."""
        return self.shown.partition(INTERRUPT)[0]

    def must_match(self, printed):
        """Fail if something else was printed. Raise `EventsWithheld` if the kernel did not run a program for an event."""
        if withheld := re.search(r"lab: (\d+) events lost: the kernel did not run the program", printed):
            raise EventsWithheld({self.line: int(withheld[1])})
        if not pattern_of(self.shown.replace(INTERRUPT, ""), self.line).fullmatch(printed):
            raise AssertionError(f"{self.line}\nprinted:\n{printed}\nand is shown as:\n{self.shown}")


def commands_of(source):
    """Return the commands of a session. A command goes on in the next line after a backslash."""
    parts = PROMPT.split(source)
    assert not parts[0].strip(), f"a session starts with a command, not with {parts[0]!r}"
    found = []
    for part in parts[1:]:
        line, shown = re.fullmatch(r"((?:.*\\\n)*.*\n?)((?:.|\n)*)", part).groups()
        found.append(Command(line.replace("\\\n", " ").strip(), shown))
    return found


def says_ready(words):
    """Return whether a command of the lab has the hidden option `--ready-fd`."""
    return words[0] == "lab" and "--ready-fd" in options_of(words[1])


def options_of(name):
    """Return the options of a command of the lab."""
    return {option for action in cli.parser_of(name)._actions for option in action.option_strings}  # noqa: SLF001


def parse_only(line):
    """Parse the command of a block that is not run. The lab's commands must have their options."""
    words = shlex.split(line, comments=True)
    if words[0] == "sudo":
        words = words[1:]
    if words[0] == "lab":
        parser = cli.parser_of(words[1])
        parser.error = _raise
        parser.parse_args(cli._with_negative_values(words[2:]))  # noqa: SLF001 (what main() does)


def _raise(message):
    raise argparse.ArgumentTypeError(message)


class Page:
    """The state in which the blocks of a page run: a folder, a network namespace, and programs that run beside."""

    def __init__(self, folder):
        self._folder, self._instance = folder / "page", None
        self._beside, self._background, self._numbers = None, [], itertools.count()
        self._folder.mkdir()
        programs = folder / "programs"
        programs.mkdir()
        for name, text in PROGRAMS.items():
            path = programs / name
            path.write_text("#!/bin/sh\n" + text.format(bin=Path(sys.executable).parent, checkout=CHECKOUT) + "\n")
            path.chmod(0o755)
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "LAB_"))
        } | {
            "PATH": f"{programs}:{SERVERS}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LAB_RESULTS": str(self._folder / "results"),
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONUNBUFFERED": "1",
        }
        # The names of namespaces, and ports of servers, are the page's own: other scenarios run at the same time.
        # nginx is extracted and not installed: the folders that it needs are made here, in the mount namespace.
        # scapy warns of a host without a route.
        setup = """set -e
            mkdir -p /run/netns
            mount -t tmpfs none /run/netns
            for it in lib log; do
                [ -d /var/$it/nginx ] || { mount -t tmpfs none /var/$it; mkdir /var/$it/nginx; }
            done
            ip link set lo up
            ip route add default dev lo
            echo ready
            exec sleep 1h"""
        self._holder = subprocess.Popen(
            ["/usr/bin/setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net", "sh", "-c", setup],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout.readline() == "ready\n"

    def close(self):
        """End what runs beside, and whatever else the page has started: the processes in its mount namespace."""
        with ExitStack() as stack:
            stack.callback(self._holder.wait)
            stack.callback(self._holder.stdout.close)
            stack.callback(self._kill_all)
            for running in self._background:
                stack.callback(running.kill)

    def _kill_all(self):
        place = Path("/proc", str(self._holder.pid), "ns/mnt").readlink()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended, or is one of the kernel
                if (process / "ns/mnt").readlink() == place:
                    os.kill(int(process.name), signal.SIGKILL)

    def evaluate(self, example):
        """Run a block. Return what is not as the page shows it, which Sybil reports with its line."""
        try:
            self._run(example)
        except (AssertionError, argparse.ArgumentTypeError, subprocess.TimeoutExpired) as error:
            return "\n".join([str(error), *(running.printed()[-2000:] for running in self._background)])
        return None

    def _run(self, example):
        source, language, title = example.parsed, example.region.lexemes["language"], example.region.lexemes["title"]
        comment = COMMENT.search(example.document.text[: example.start])
        beside, self._beside = self._beside, None
        if title:
            path = self._folder / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
            self._beside = beside
        elif comment and comment[1].startswith(NOT_RUN):
            for command in commands_of(source):
                parse_only(command.line)
        elif comment and comment[1] == BESIDE:
            assert beside is None
            (command,) = commands_of(source)
            self._beside = self._started(command)
        else:
            CHECKS[language](self, source)
            if beside:
                beside.interrupt()

    def session(self, source):
        """Run commands one after the other."""
        for command in commands_of(source):
            if command.line.endswith("&"):
                self._started(Command(command.line[:-1], command.shown))
            else:
                self._running(command).finish()

    def program(self, source):
        """Run a Python program, which must print nothing."""
        (self._folder / "block.py").write_text(source)
        self.session(f"# {sys.executable} -P block.py\n")

    def workflow(self, source):
        """Check a workflow of GitHub by its schema."""
        (self._folder / "workflow.yml").write_text(source)
        self.session(
            f"# {sys.executable} -m check_jsonschema -q --builtin-schema vendor.github-workflows workflow.yml\n"
        )

    def _started(self, command):
        live = says_ready(command.line.split())
        running = self._running(command, live=live)
        self._background.append(running)
        if not live:
            running.await_shown()
        if found := INSTANCE.search(running.printed()):
            self._instance = found[0]
        return running

    def _running(self, command, **options):
        line = INSTANCE.sub(self._instance, command.line) if self._instance else command.line
        inside = [
            "/usr/bin/nsenter",
            f"--mount=/proc/{self._holder.pid}/ns/mnt",
            f"--net=/proc/{self._holder.pid}/ns/net",
        ]
        inside += [f"--wd={self._folder}", "/usr/bin/env", "--default-signal=INT"]
        output = self._folder.parent / f"output-{next(self._numbers)}"
        return Running(
            command, output, [*inside, "bash", "-c", f"set -o pipefail; {line}"], self._environment, **options
        )


class Running:
    """A command that runs. `live`: it is a live tool, which says when it observes."""

    def __init__(self, command, output, words, environment, *, live=False):
        self._command, self._output = command, output
        read, write = os.pipe()
        with output.open("wb") as file, os.fdopen(read) as ready:
            self._process = subprocess.Popen(
                words,
                env=environment | ({"READY_FD": str(write)} if live else {}),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=(write,) if live else (),
                start_new_session=True,
            )
            os.close(write)
            if live:
                ready.readline()

    def printed(self):
        """Return what it has printed so far."""
        return self._output.read_text(encoding="utf-8")

    def await_shown(self):
        """Wait until it has printed what is shown, up to `^C`."""
        pattern = pattern_of(self._command.before, self._command.line)
        deadline = time.monotonic() + HUNG_S / 6
        while not pattern.fullmatch(self.printed()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                break
            time.sleep(0.02)

    def interrupt(self):
        """Wait until the program has printed what is shown, end it by Ctrl-C, and compare."""
        self.await_shown()
        self.signal(signal.SIGINT)
        self.finish()

    def finish(self):
        """Wait for the end of the program and compare."""
        try:
            status = self._process.wait(timeout=HUNG_S)
        finally:
            self.kill()
        self._command.must_match(self.printed())
        # A command that is shown with what it prints can fail, as `lab judge` does at a wrong number.
        assert status == 0 or self._command.shown.strip(), f"{self._command.line}: status {status}"

    def signal(self, number):
        """Send a signal to its process group, as a terminal does, unless it has ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def kill(self):
        """End it if it runs."""
        for number in (signal.SIGINT, signal.SIGKILL):
            self.signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=HUNG_S / 6)


CHECKS = {
    "console": Page.session,
    "python": Page.program,
    "yaml": Page.workflow,
    "json": lambda _, source: [json.loads(line) for line in source.splitlines()],
    "toml": lambda _, source: tomllib.loads(source),
    "text": lambda *_: None,
}


def blocks_of(path, evaluator=None):
    """Return the blocks of a page as examples of Sybil. Fails if the language of one is unknown."""

    def parse(document):
        for region in RawFencedCodeBlockLexer(INFO)(document):
            region.parsed, region.evaluator = region.lexemes["source"], evaluator
            yield region

    return list(Document.parse(str(path), parse))


def files_of(path):
    """Return the text of each file that a page has, by its name."""
    blocks = (block for block in blocks_of(path) if block.region.lexemes["title"])
    return {block.region.lexemes["title"]: str(block.parsed) for block in blocks}
