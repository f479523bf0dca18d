"""Telling what is going on now, while something takes its time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Say what is going on now: on a terminal in one line that changes, elsewhere in a line each, the first time."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield cache(console.print)
        return
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task("")
        yield lambda text: progress.update(task, description=text)
