"""The command `lab`: find the subcommands, parse the arguments, run one, print errors as one sentence."""

import argparse
import importlib
import io
import os
import pkgutil
import re
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from lab import commands, probes
from lab.errors import LabError, remedy
from lab.output.text import printable
from lab.signals import ending

_NEGATIVE = re.compile(r"-\d+(\.\d*)?[a-z%µ]+|-\d{2,}|-\d*\.\d+")  # but not the options -4 and -6
_NEWLINE = "\n"  # between an error and the compiler's messages


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line. Return the exit status: 0, 1 for a failed verdict, 2 for a user's error, 130 for Ctrl-C."""
    words = _with_negative_values(sys.argv[1:] if arguments is None else arguments)
    try:
        _require_streams()
        with ending(last=arguments is None):
            return _ran(words)
    except LabError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        if not any(map(_abandoned, (sys.stdout, sys.stderr))):
            raise  # a broken pipe inside the lab is a defect
        sys.stderr.close()  # the reader of the output, for example `head`, has closed it
        return 0
    except Exception as error:
        if (sentence := remedy(error)) is None:
            raise
        sys.unraisablehook = lambda _: None  # objects that are removed half built
        return _failed(sentence)
    finally:
        _discard_unwritten(sys.stdout)


def _failed(sentence: str) -> int:
    print(f"lab: {printable(sentence, keep=_NEWLINE)}", file=sys.stderr)
    return 2


def _require_streams() -> None:
    """Raise `LabError` if standard output is closed. Occupy the descriptors of closed streams.

    A file or socket that is opened later must not become standard output of this process or of one that it starts.
    """
    closed = sys.stdout is None
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(null, True)  # noqa: FBT003 (it takes no keyword)
    os.close(null)
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or os.fdopen(fd, "w", closefd=False)
        if isinstance(stream, io.TextIOWrapper):  # a character that the encoding lacks does not end a command
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)
    if closed:
        raise LabError("standard output is closed: redirect it to a file or to /dev/null")


def _ran(words: Sequence[str]) -> int:
    status = 0
    try:
        args = _parser(words).parse_args(words)
        status = int(args.run(args))
    except SystemExit as end:  # argparse raises it after it has printed the help
        if end.code:
            raise
    sys.stdout.flush()
    return status


def _abandoned(stream: TextIO) -> bool:
    """Return whether a stream is a pipe whose reading end is closed: POLLERR or POLLHUP, poll(2)."""
    poll = select.poll()
    poll.register(stream, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _discard_unwritten(stream: TextIO) -> None:
    """Flush a stream; redirect it to /dev/null if that fails.

    Otherwise Python flushes it at exit and prints a second error.
    """
    try:
        stream.flush()
    except OSError:
        with Path(os.devnull).open("w", encoding="utf-8") as null:
            os.dup2(null.fileno(), stream.fileno())


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description="eBPF probes of TCP, judged against known delays.")
    parser.add_argument("--version", action=_Version)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    names = (info.name for info in pkgutil.iter_modules(commands.__path__))
    found = {name: f"lab.commands.{name}" for name in names} | {
        name: f"lab.probes.{name}.cli" for name in probes.names()
    }
    # Import only the command that runs: this keeps start-up short.
    chosen = words[0] if words and words[0] in found else None
    for name in [chosen] if chosen else sorted(found):
        _add(subparsers, name, importlib.import_module(found[name]))
    return parser


class _Version(argparse.Action):
    """Print the version. The metadata of packages are read for this option only: they slow down a start."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"nargs": 0, "help": "print the version"})

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415 (as above)

        print(f"lab {version('tcp-truth-lab')}")
        parser.exit()


def _add(subparsers: Any, name: str, module: ModuleType) -> None:
    text = (module.__doc__ or "").strip()
    parser = subparsers.add_parser(
        name,
        help=text.splitlines()[0].rstrip("."),
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n\n".join(
            text.strip() for text in (getattr(module, "EXAMPLES", ""), getattr(module, "DETAILS", "")) if text
        ),
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


def _with_negative_values(words: Sequence[str]) -> list[str]:
    """Replace `--delay -5ms` by `--delay=-5ms`.

    Otherwise argparse takes `-5ms` for an option and reports a missing value.
    """
    joined: list[str] = []
    for word in words:
        if _NEGATIVE.fullmatch(word) and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
