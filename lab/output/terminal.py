"""The terminal: its width and colours, and a line that shows progress."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache


def columns() -> int | None:
    """Return the width of the terminal on standard output, None if it is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def cut(line: str, width: int | None) -> str:
    """Return a line, cut to `width` columns with an ellipsis at its end if it is longer; None is no limit."""
    return line if width is None or len(line) <= width else f"{line[: width - 1]}…"


def bold(text: str) -> str:
    """Return a text in bold type on a terminal."""
    return _styled(text, "1")


def red(text: str) -> str:
    """Return a text in red on a terminal."""
    return _styled(text, "31")


def _styled(text: str, style: str) -> str:
    """Return a text with a style of ECMA-48, unless it goes elsewhere or NO_COLOR is set (no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{style}m{text}\033[0m"


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a text as progress on standard error.

    On a terminal, the text replaces the one before. Elsewhere each different text is printed once, on its own line.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield cache(console.print)
        return
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task("")
        yield lambda text: progress.update(task, description=text)
