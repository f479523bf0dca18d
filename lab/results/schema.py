"""Files of a run as they are read again: each has a schema and a limit of its size, since it may come from anybody."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from lab import clock
from lab.ebpf import attach
from lab.errors import LabError

Decoded = TypeVar("Decoded")

LARGEST = 1 << 28
"""Bytes of a file that is read as a whole."""

LONGEST = 1 << 22
"""Bytes of a line."""


class Kernel(msgspec.Struct, frozen=True):
    """The kernel of a run."""

    release: str = "unknown"


class NotJudged(msgspec.Struct, frozen=True):
    """Something of a run that was not compared with the truth (for example `12 scenarios`), and why."""

    what: str
    why: str


class About(msgspec.Struct, frozen=True):
    """The part of a run.json that the lab uses; the rest is only shown.

    `status` is None if the run has not ended, `not_judged` if the run does not say what it has left out.
    """

    kernel: Kernel = Kernel()
    started: str = ""
    time: str = clock.REAL
    attach: str = attach.BEST
    commit: str | None = None
    status: int | None = None
    not_judged: list[NotJudged] | None = None


def read(path: Path, decode: Callable[[bytes], Decoded], remedy: str) -> Decoded:
    """Return the content of a file; `decode` is a method of a `msgspec.json.Decoder`.

    Raises `LabError`, which ends with `remedy`, if the file cannot be read, is too large or has another form.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise LabError(f"{path} is larger than {LARGEST >> 20} MB: {remedy}")
        return decode(content)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LabError(f"{path} cannot be read, or is not of this version ({error}): {remedy}") from error
