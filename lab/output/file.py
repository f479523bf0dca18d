"""Open files for output. Root may write into a folder that other users can change, so no link there is followed.

Every file that a user names for output is opened here. An existing file or link is replaced by a new file with an unguessable
temporary name in the same folder (`O_CREAT | O_EXCL | O_NOFOLLOW`), renamed over the name: the target of a link is never written.
Character devices and pipes, such as /dev/null, are written as they are.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from lab.errors import FULL, LabError, require_resources

_TRUSTED = (Path("/dev"), Path("/proc"))
"""Folders whose links are the system's own: /dev/stdout leads to /proc/self/fd/1."""


@contextmanager
def replacing(path: Path, mode: str = "w", *, private: bool = False, **options: Any) -> Iterator[IO[Any]]:
    """Yield a file that takes the place of `path` when the block has ended without an exception.

    Readers see the old file or the complete new one. With `private` only the owner may read it. `options` as for `open()`. Raises
    `LabError` when `path` cannot be written.
    """
    options |= _text(mode, options)
    with _errors(path):
        if _is_special(path):
            with path.open(mode, **options) as file:
                yield file
            return
        with _temporary(path, private=private) as new:
            with os.fdopen(new.fd, mode, **options) as file:
                yield file
            new.rename(path.name)


def fresh(path: Path, mode: str = "wb", *, private: bool = False, **options: Any) -> IO[Any]:
    """Open a new, empty file in the place of `path` at once, for output that grows while it is read; as `replacing` otherwise."""
    options |= _text(mode, options)
    with _errors(path):
        if _is_special(path):
            file: IO[Any] = path.open(mode, **options)
            return file
        with _temporary(path, private=private) as new:
            try:
                new.rename(path.name)
            except OSError:
                os.close(new.fd)
                raise
        return os.fdopen(new.fd, mode, **options)


def appending(path: Path) -> int:
    """Open a file to append to and to read; returns its file descriptor. Raises `LabError` when a link stands there."""
    with _errors(path):
        if path.is_symlink() and not _is_special(path):
            raise LabError(f"{path} is a link, which the lab does not follow: name the file itself")
        follow = 0 if path.is_symlink() else os.O_NOFOLLOW
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | follow, 0o644)


def require_writable(path: Path) -> None:
    """Raise `LabError` when a file of this name could not be written, before the work for it begins. Nothing is left or changed."""
    with _errors(path):
        if not _is_special(path):
            with _temporary(path, private=True) as new:
                os.close(new.fd)
                new.remove()


def own_folder(path: Path) -> Path:
    """Create a folder from which code or programs are loaded, or check that no other user can change it; returns it.

    Raises `LabError` when it belongs to another user, when others may write to it, and when it is a link.
    """
    with _errors(path):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        found = path.lstat()
        if (
            not stat.S_ISDIR(found.st_mode)
            or found.st_uid != os.geteuid()
            or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        ):
            raise LabError(
                f"{path} can be changed by other users, and the lab runs what is in it: remove it, or name another folder"
            )
        return path


def require_unchangeable(folder: Path, remedy: str) -> None:
    """Raise `LabError`, with the remedy, if other users could replace this folder, or one above it, by a link.

    Root, this user and the caller of sudo are trusted. Others may create files beside the folder where the sticky bit protects
    it, as in /tmp. The folders above it must not be links: `Path.cwd()` and what is below it has none.
    """
    caller = os.environ.get("SUDO_UID", "")
    trusted = {0, os.geteuid(), *([int(caller)] if caller.isdecimal() else [])}
    for path in (folder, *folder.parents):
        found = path.lstat()
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if found.st_mode & stat.S_ISVTX and path != folder:
            shared = 0
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in trusted or shared:
            raise LabError(
                f"{folder} cannot be used, since {path} is a link or can be changed by other users: {remedy}"
            )


def point(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target`, in place of what stands there, at once."""
    temporary = link.with_name(f".{link.name}.{os.urandom(8).hex()}")
    temporary.symlink_to(target)
    temporary.replace(link)


class _Temporary(NamedTuple):
    """A new file in a folder: the file descriptors of both, and the file's name."""

    folder: int
    name: str
    fd: int

    def rename(self, name: str) -> None:
        os.rename(self.name, name, src_dir_fd=self.folder, dst_dir_fd=self.folder)

    def remove(self) -> None:
        os.unlink(self.name, dir_fd=self.folder)


@contextmanager
def _temporary(path: Path, *, private: bool) -> Iterator[_Temporary]:
    """Create a file beside `path`, and remove it if the block raises. The block closes it."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        name = f".{path.name[:200]}.{os.urandom(8).hex()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        new = _Temporary(folder, name, os.open(name, flags, 0o600 if private else 0o666, dir_fd=folder))
        try:
            yield new
        except BaseException:
            new.remove()
            raise
    finally:
        os.close(folder)


def _is_special(path: Path) -> bool:
    """Return true for a character device or a pipe, which is written in place; a link to one counts in /dev and /proc only."""
    trusted = any(path.parent.is_relative_to(folder) for folder in _TRUSTED)
    try:
        mode = path.stat(follow_symlinks=trusted).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or (trusted and stat.S_ISREG(mode))


def _text(mode: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the encoding of a text file: UTF-8 unless `options` name another, whatever the locale."""
    return {} if "b" in mode else {"encoding": options.get("encoding", "utf-8")}


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        require_resources(error)
        remedy = "free some space, or choose another file" if error.errno in FULL else "choose another file"
        raise LabError(f"{path} cannot be written ({error.strerror}): {remedy}") from error
