"""The same work on several items at a time. For system calls, during which other threads of Python run."""

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the results of `work` for all items, in their order, from as many threads as there are processors.

    Each thread takes the first item that is left. After an error no other item is begun, and the error is raised when all
    threads are done.
    """
    waiting = list(enumerate(items))[::-1]
    results: dict[int, Result] = {}
    errors: list[Exception] = []

    def run() -> None:
        while waiting and not errors:
            try:
                number, item = waiting.pop()
            except IndexError:  # another thread was faster
                return
            try:
                results[number] = work(item)
            except Exception as error:  # noqa: BLE001 (raised below)
                errors.append(error)

    threads: list[threading.Thread] = []
    try:
        for _ in range(min(len(waiting), os.cpu_count() or 1) - 1):
            thread = threading.Thread(target=run)
            with suppress(RuntimeError):  # no memory or no number for it: the other threads do its work
                thread.start()
                threads.append(thread)
        run()
    finally:
        waiting.clear()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return [results[number] for number in sorted(results)]
