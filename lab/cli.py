"""The command `lab`: find the subcommands, parse the arguments, run one, print errors as one sentence."""

import argparse
import importlib
import io
import os
import re
import select
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from lab import commands, probes
from lab.errors import LabError, remedy
from lab.output.text import printable
from lab.signals import ending

# English like the lab's own words. Looking for translations takes 3 ms.
argparse._ = str  # type: ignore[attr-defined]

_NEGATIVE = re.compile(r"-\d+(\.\d*)?[a-z%µ]+|-\d{2,}|-\d*\.\d+")  # but not the options -4 and -6
_NEWLINE = "\n"  # between an error and the compiler's messages


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line. Return the exit status: 0, 1 for a failed verdict, 2 for a user's error, 130 for Ctrl-C."""
    words = _with_negative_values(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # The lab does no linear algebra. Threads for it would take 40 ms and 40 MB with NumPy.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        _require_streams()
        if "_ARGCOMPLETE" in os.environ:
            _complete(os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])])
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
        args, unknown = _parser(words).parse_known_args(words)
        if unknown:
            args.parser.error(_unknown(unknown, args.parser))
        status = int(args.run(args))
    except SystemExit as end:  # argparse raises it after it has printed the help
        if end.code:
            raise
    sys.stdout.flush()
    return status


def _complete(line: str) -> None:
    """Print what can follow at the end of a command line, to the shell that asks (`lab completion`), and end the process."""
    import argcomplete  # noqa: PLC0415 (for this only)

    found = _modules()
    parser, subparsers = _empty_parser()
    if chosen := next((word for word in line.split(" ")[1:-1] if word in found), None):
        _add(subparsers, chosen, importlib.import_module(found[chosen]))
    else:
        for name, module in sorted(found.items()):
            subparsers.add_parser(name, help=_summary(_docstring(module)))
    argcomplete.autocomplete(parser, always_complete_options="long")


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


def _empty_parser() -> tuple[argparse.ArgumentParser, Any]:
    """Return the parser of `lab` without commands, and the action that they are added to."""
    usage = "lab [-h] [--version] COMMAND ..."
    parser = argparse.ArgumentParser(
        prog="lab", usage=usage, description="eBPF probes of TCP, judged against known delays."
    )
    parser.add_argument("--version", action=_Version)
    return parser, parser.add_subparsers(prog="lab", metavar="COMMAND", required=True, help=argparse.SUPPRESS)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser, subparsers = _empty_parser()
    found = _modules()
    # Before the command there are only options without a value.
    if chosen := next((word for word in words if not word.startswith("-")), None):
        if chosen not in found:
            raise LabError(f"there is no command `{chosen}`{_meant(chosen, found)}: `lab --help` lists them")
        _add(subparsers, chosen, importlib.import_module(found[chosen]))
        return parser
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(_listed(found))
    return parser


def _listed(found: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines that name the commands: the live tools, then the others."""
    import textwrap  # noqa: PLC0415 (for the help only)

    width = min(shutil.get_terminal_size().columns, 100)
    live = probes.names()
    for title, group in (("live tools", live), ("the lab", sorted(found.keys() - set(live)))):
        yield f"{title}:"
        for name in group:
            head = f"  {name:<13}"
            yield textwrap.fill(
                _summary(_docstring(found[name])), width, initial_indent=head, subsequent_indent=" " * 15
            )
        yield ""
    yield "`lab COMMAND --help` explains one. `lab demo` shows all probes at once, judged."


def names() -> list[str]:
    """Return the names of all commands."""
    return sorted(_modules())


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of one command, with its help as the description and the epilog."""
    return _add(argparse.ArgumentParser(prog="lab").add_subparsers(), name, importlib.import_module(_modules()[name]))


def _modules() -> dict[str, str]:
    """Return the module of each command."""
    # Not pkgutil: it imports `inspect`, which slows down a start.
    found = (path.stem for path in Path(commands.__path__[0]).glob("[!_]*.py"))
    return {name: f"lab.commands.{name}" for name in found} | {
        name: f"lab.probes.{name}.cli" for name in probes.names()
    }


def _docstring(module: str) -> str:
    """Return the docstring of a module, without importing it: that keeps the start short."""
    import ast  # noqa: PLC0415 (for the help only)

    path = Path(commands.__path__[0]).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _summary(text: str) -> str:
    return text.strip().splitlines()[0].rstrip(".")


class _Version(argparse.Action):
    """Print the version. The metadata of packages are read for this option only: they slow down a start."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"nargs": 0, "help": "print the version"})

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415 (as above)

        print(f"lab {version('tcp-truth-lab')}")
        parser.exit()


def _add(subparsers: Any, name: str, module: ModuleType) -> argparse.ArgumentParser:
    text = (module.__doc__ or "").strip()
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=_summary(text),
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n\n".join(
            text.strip() for text in (getattr(module, "EXAMPLES", ""), getattr(module, "DETAILS", "")) if text
        ),
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run, parser=parser)
    return parser


def _unknown(words: Sequence[str], parser: argparse.ArgumentParser) -> str:
    options = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001 (it has no other list)
    return f"there is no option or argument {' '.join(f'`{word}`' + _meant(word, options) for word in words)}"


def _meant(word: str, known: Iterable[str]) -> str:
    """Return a hint at the most similar word that is known, empty if none is similar."""
    import difflib  # noqa: PLC0415 (for errors only)

    similar = difflib.get_close_matches(word, known, 1)
    return f" (`{similar[0]}`?)" if similar else ""


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
