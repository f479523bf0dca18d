"""A cache on disk for compiled programs and BTF look-ups.

- An entry contains the complete source of its result (file text, definitions, kernel). It is used only if that is
  equal, byte by byte. Dates and digests do not decide.
- Root loads these programs into the kernel. So the folder and its entries are ignored unless they belong to the user
  and nobody else can write to them.
- Damaged or ignored entries are reported on standard error, and replaced.
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
from lab.linux.syscalls import owned
from lab.paths import CACHE

SWITCH = "LAB_CACHE"
"""The environment variable that disables the cache with the value `off`."""

MOST_ENTRIES = 256
"""The least recently used entries beyond this number are deleted. The entry of a program has about 100 kB."""

_PROGRAMS = "programs"
# An entry: format, CRC-32 of the rest; then the length of the source, the source, the result.
_HEAD = struct.Struct("=4sI")
_FORMAT = b"lab1"


def recall(name: str, made_from: bytes, make: Callable[[], bytes]) -> bytes:
    """Return the cached result for the source `made_from`; without one, call `make` and cache its result.

    `name` is the first part of the entry's file name, for readers of the folder. If the cache cannot be used, a warning
    goes to standard error and `make` is called. Raises the errors of `make`, and `LabError` when `LAB_CACHE` is neither
    `off` nor empty.
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
        _warn_once(f"the cache {folder_path()} is not used ({refusal.strerror})")
        return make()
    if kept is not None:
        return kept
    made = make()
    try:
        folder_path().mkdir(mode=0o700, parents=True, exist_ok=True)
        with _folder() as folder:
            _write(folder, entry, made_from, made)
    except OSError as refusal:
        _warn_once(f"the cache {folder_path()} cannot be written ({refusal.strerror})")
    return made


def is_off() -> bool:
    """Return true if `LAB_CACHE` disables the cache. Raises `LabError` for any value but `off` and the empty one."""
    asked_for = os.environ.get(SWITCH, "")
    if asked_for not in ("", "off"):
        raise LabError(f"{SWITCH} is `{asked_for}`: set it to off, or not at all")
    return asked_for == "off"


def folder_path() -> Path:
    """Return the folder of the entries."""
    return CACHE / _PROGRAMS


def examine() -> str:
    """Return the number of entries and the folder, as text. Raises `OSError` or `LabError` if the cache is not used."""
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
    """Open the folder and check its owner. Entries are opened relative to it: a changed path cannot redirect them."""
    with owned(os.open(folder_path(), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)) as folder:
        _require_own(os.fstat(folder))
        yield folder


def _require_own(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, "it is another user's, or others may write to it")


def _read(folder: int, entry: str, made_from: bytes) -> bytes | None:
    """Return the result in an entry, None if there is no valid entry with this source."""
    try:
        data = _content(folder, entry)
    except FileNotFoundError:
        return None
    except OSError as refusal:
        _warn_once(f"{folder_path() / entry} is not used ({refusal.strerror})")
        return None
    rest, source = data[_HEAD.size :], _with_length(made_from)
    if data[: _HEAD.size] != _HEAD.pack(_FORMAT, zlib.crc32(rest)):
        _warn_once(f"{folder_path() / entry} is damaged, or of another version")
        return None
    return rest.removeprefix(source) if rest.startswith(source) else None


def _with_length(made_from: bytes) -> bytes:
    return struct.pack("=I", len(made_from)) + made_from


def _content(folder: int, entry: str) -> bytes:
    # O_NOFOLLOW: no symbolic link. O_NONBLOCK: no wait for the writer of a pipe.
    fd = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    with owned(fd):
        _require_own(os.fstat(fd))
        with suppress(OSError):  # a read-only folder: no entry is deleted either
            os.utime(fd)
        with open(fd, "rb", closefd=False) as file:
            return file.read()


def _write(folder: int, entry: str, made_from: bytes, made: bytes) -> None:
    """Write an entry atomically: readers see the old entry, the complete new one, or none."""
    part = f".{entry}-{os.urandom(4).hex()}"
    rest = _with_length(made_from) + made
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder), "wb") as file:
        try:
            file.write(_HEAD.pack(_FORMAT, zlib.crc32(rest)) + rest)
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
            with suppress(FileNotFoundError):  # replaced or deleted by another process
                times.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
    for _, name in sorted(times)[:-MOST_ENTRIES]:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


@cache
def _warn_once(problem: str) -> None:
    """Print a warning, once per process for each problem."""
    print(f"lab: {problem}: the result is computed again", file=sys.stderr)
