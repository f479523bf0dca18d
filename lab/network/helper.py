"""A C program of the lab that runs beside it: it answers lines on standard input with lines on standard output.

What lives here: starting it, asking it, and ending it. What does not: what the lines mean (`relay.py`, `taps.py`).
"""

import os
import selectors
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lab.errors import LabError

if TYPE_CHECKING:
    import numpy as np


class Helper:
    """A running program, which ends at the latest with this process. `name` stands for it in messages.

    It starts in the network namespace of the calling thread, and inherits the file descriptors `fds`.
    """

    def __init__(self, name: str, program: Path, arguments: Sequence[object], fds: Sequence[int]) -> None:
        self._name = name
        if not program.exists():
            raise LabError(f"{name} has not been built: run `make setup`")
        self._process = subprocess.Popen(
            [program, str(os.getpid()), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=fds,
            bufsize=0,  # select() would miss an answer in a buffer of this process
            # Ctrl-C of a terminal must reach the lab only, which ends the program in order.
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has been ended, or found to have ended."""
        return self._process.returncode is not None

    def ask(self, text: str, word: str) -> str:
        """Send lines and return the answer that begins with `word`."""
        with suppress(BrokenPipeError):  # it has ended; answer() raises with its message
            _pipe(self._process.stdin).write(f"{text}\n".encode())
        return self.answer(word)

    def answer(self, word: str, limit_s: float = 20.0) -> str:
        """Return the next line that begins with `word`, skipping the answers to earlier, interrupted calls."""
        stdout = _pipe(self._process.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while selector.select(limit_s):
                line = stdout.readline().decode()
                if line.startswith(word):
                    return line
                if not line:
                    raise LabError(f"{self._name} has ended{self.end()}")
        raise LabError(f"{self._name} did not answer within {limit_s:g} s: is the machine overloaded?")

    def end(self) -> str:
        """Kill the process and return the end of a sentence: its last line of standard error, or its status.

        Returns nothing if it has been ended before.
        """
        if self.ended:
            return ""
        with self._process:  # closes its pipes
            self._process.kill()
            errors = _pipe(self._process.stderr).read().decode(errors="replace").strip()
        return f": {errors.splitlines()[-1]}" if errors else f" with status {self._process.returncode}"


def numbers(answer: str) -> dict[str, int]:
    """Return the numbers of an answer, by name: its words but the first are `name=number`."""
    pairs = (word.split("=") for word in answer.split()[1:])
    return {name: int(value) for name, value in pairs}


def require_layout(name: str, printed: Sequence[str], record: "np.dtype[np.void]") -> None:
    """Raise `LabError` if a program has another layout of a record than this dtype: `name:offset:size` of each member."""
    fields = [(name, *field[:2]) for name, field in (record.fields or {}).items() if name != "pad"]
    if list(printed) != [f"{name}:{offset}:{kind.itemsize}" for name, kind, offset in fields]:
        raise LabError(f"{name} was built from another version of its source: run `make setup`")


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101 (Popen was asked for a pipe)
    return stream
