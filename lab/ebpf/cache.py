"""What takes long to make and stays true, kept from one run to the next: compiled programs, and what is looked up to load them.

An entry begins with all that it was made from, and is used only when that is the same to the last byte: no date and no digest
decides. Root loads what lies here, so folder and entries must be its own, and written by nobody else. What is damaged or not to
be trusted is said, made anew, and replaced.
"""

import errno
import os
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from lab.errors import LabError
from lab.linux.bpf import owned
from lab.paths import CACHE

SWITCH = "LAB_CACHE"
"""The environment variable that turns the cache `off`."""

MOST_ENTRIES = 256
"""When there are more, those go that were not used for longest. A program's entry has some 100 kB."""

_PROGRAMS = "programs"
_HEAD = struct.Struct(
    "=4sI"
)  # the form's name, checksum of what follows: the source, with its length before it, and the result
_FORM = b"lab1"


def recall(name: str, made_from: bytes, make: Callable[[], bytes]) -> bytes:
    """Return what `make` has made from the same before, or have it made, and keep it.

    `name` begins the entry's file name, for the eyes of people. Errors are those of `make`; that the cache cannot be used is said
    on standard error, and no error. Raises `LabError` when `LAB_CACHE` is neither `off` nor empty.
    """
    if is_off():
        return make()
    entry = f"{name}-{zlib.crc32(made_from):08x}"
    try:
        with _folder() as folder:
            kept = _read(folder, entry, made_from)
    except FileNotFoundError:
        kept = None
    except OSError as refusal:
        _say(f"the cache {folder_path()} is not used ({refusal.strerror})")
        return make()
    if kept is not None:
        return kept
    made = make()
    try:
        folder_path().mkdir(mode=0o700, parents=True, exist_ok=True)
        with _folder() as folder:
            _write(folder, entry, made_from, made)
    except OSError as refusal:
        _say(f"the cache {folder_path()} cannot be written ({refusal.strerror})")
    return made


def is_off() -> bool:
    """Tell whether `LAB_CACHE` turns it off. Raises `LabError` when that says anything else."""
    asked_for = os.environ.get(SWITCH, "")
    if asked_for not in ("", "off"):
        raise LabError(f"{SWITCH} is `{asked_for}`: set it to off, or not at all")
    return asked_for == "off"


def folder_path() -> Path:
    """Return where the entries are."""
    return CACHE / _PROGRAMS


def examine() -> str:
    """Tell where it is and how many entries it has. `OSError` or `LabError` says why it is not used."""
    if is_off():
        raise LabError(f"{SWITCH}=off")
    try:
        with _folder() as folder, os.scandir(folder) as entries:
            count = sum(1 for _ in entries)
    except FileNotFoundError:
        count = 0
    return f"{count} entries in {folder_path()}"


@contextmanager
def _folder() -> Iterator[int]:
    """Open the folder; what is in it is then reached through it, wherever its path leads meanwhile."""
    with owned(os.open(folder_path(), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)) as folder:
        _require_own(os.fstat(folder))
        yield folder


def _require_own(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, "it is another user's, or others may write to it")


def _read(folder: int, entry: str, made_from: bytes) -> bytes | None:
    """Return what an entry keeps, None when there is none that was made from this."""
    try:
        data = _content(folder, entry)
    except FileNotFoundError:
        return None
    except OSError as refusal:
        _say(f"{folder_path() / entry} is not used ({refusal.strerror})")
        return None
    rest, source = data[_HEAD.size :], _counted(made_from)
    if data[: _HEAD.size] != _HEAD.pack(_FORM, zlib.crc32(rest)):
        _say(f"{folder_path() / entry} is damaged, or of another version")
        return None
    return rest.removeprefix(source) if rest.startswith(source) else None


def _counted(made_from: bytes) -> bytes:
    return struct.pack("=I", len(made_from)) + made_from


def _content(folder: int, entry: str) -> bytes:
    # Neither through a link nor waiting for whoever would write to a pipe.
    fd = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    with owned(fd):
        _require_own(os.fstat(fd))
        with suppress(OSError):  # where nothing can be written, nothing is dropped either
            os.utime(fd)
        with open(fd, "rb", closefd=False) as file:
            return file.read()


def _write(folder: int, entry: str, made_from: bytes, made: bytes) -> None:
    """Put an entry there at once: who looks sees the old one, or the new one, or none."""
    part = f".{entry}-{os.urandom(4).hex()}"
    rest = _counted(made_from) + made
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder), "wb") as file:
        try:
            file.write(_HEAD.pack(_FORM, zlib.crc32(rest)) + rest)
            file.flush()
            os.replace(part, entry, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(part, dir_fd=folder)
            raise
    _drop_oldest(folder)


def _drop_oldest(folder: int) -> None:
    with os.scandir(folder) as entries:
        times = []
        for entry in entries:
            with suppress(FileNotFoundError):  # replaced by another process, or dropped by it
                times.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
    for _, name in sorted(times)[:-MOST_ENTRIES]:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


@cache
def _say(what: str) -> None:
    """Say it once."""
    print(f"lab: {what}: what it would have saved is made anew", file=sys.stderr)
