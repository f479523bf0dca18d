"""The cache returns a result only for exactly its source, and ignores entries that it cannot trust."""

import os
import threading

import pytest

from lab.ebpf import cache
from lab.errors import LabError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give the cache a folder of the test, and forget which warnings were printed."""
    monkeypatch.setattr(cache, "CACHE", tmp_path / "lab")
    monkeypatch.delenv(cache.SWITCH, raising=False)
    cache._warn_once.cache_clear()  # noqa: SLF001 (each test checks its own warnings)
    return tmp_path / "lab" / "programs"


def was_made(made_from=b"source", made=b"made"):
    """Ask the cache for a result, and return true if it called `make`."""
    calls = []

    def make():
        calls.append(1)
        return made

    assert cache.recall("thing", made_from, make) == made
    return len(calls) == 1


def entry(folder):
    """Return the only entry."""
    (path,) = folder.iterdir()
    return path


def test_made_once(folder, capsys):
    """The second call uses the entry, which only its owner can read or write."""
    assert was_made()
    assert not was_made()
    assert [path.stat().st_mode & 0o777 for path in (folder, entry(folder))] == [0o700, 0o600]
    assert capsys.readouterr() == ("", "")


def test_the_source_decides_and_not_the_checksum(folder, monkeypatch):
    """Sources with the same checksum, so the same file name, get their own results."""
    monkeypatch.setattr(cache.zlib, "crc32", lambda _: 7)
    assert was_made(b"one", b"1")
    assert was_made(b"other", b"2")
    assert was_made(b"othe", b"r2")
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("position", [0, 4, 8, 12, 17, -1])
def test_a_flipped_bit_is_detected(folder, capsys, position):
    """At any position: a warning, and the entry is replaced by a good one."""
    was_made()
    data = bytearray(entry(folder).read_bytes())
    data[position] ^= 1
    entry(folder).write_bytes(data)
    assert was_made()
    assert "is damaged" in capsys.readouterr().err
    assert not was_made()


@pytest.mark.parametrize("length", [0, 5, 12, 15])
def test_a_truncated_entry_is_detected(folder, length):
    """A file that ends too early is ignored and replaced."""
    was_made()
    os.truncate(entry(folder), length)
    assert was_made()
    assert not was_made()


def writable(path):
    path.chmod(0o620)


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [writable, link, pipe])
def test_an_untrusted_entry_is_replaced(folder, capsys, spoil):
    """A file that others can write to, a symbolic link and a pipe are ignored with a warning and replaced."""
    was_made()
    spoil(entry(folder))
    assert was_made()
    assert "lab: " in capsys.readouterr().err
    assert not was_made()


def test_an_untrusted_folder_is_not_used(folder, capsys, monkeypatch):
    """The cache neither reads nor writes a folder of another user or one that others can write to."""
    was_made()
    before = entry(folder).read_bytes()
    for spoil in (
        lambda: folder.chmod(0o770),
        lambda: (folder.chmod(0o700), monkeypatch.setattr(cache.os, "geteuid", lambda: 12345)),
    ):
        spoil()
        assert was_made()
        assert was_made(b"another source", b"another")
        assert entry(folder).read_bytes() == before
    assert "another user's, or others may write to it" in capsys.readouterr().err


def test_a_folder_that_cannot_be_created(folder, capsys):
    """The result is returned all the same, and the warning is printed once."""
    folder.parent.write_text("a file is where the folder should be")
    assert was_made()
    assert was_made()
    assert capsys.readouterr().err.count("\n") == 1


def test_off(folder, monkeypatch):
    """With LAB_CACHE=off the cache is neither read nor written; any other value is an error."""
    was_made()
    monkeypatch.setenv(cache.SWITCH, "off")
    assert was_made()
    assert was_made(b"another source")
    assert len(list(folder.iterdir())) == 1
    with pytest.raises(LabError, match="LAB_CACHE=off"):
        cache.examine()
    monkeypatch.setenv(cache.SWITCH, "no")
    with pytest.raises(LabError, match="LAB_CACHE is `no`: set it to off"):
        was_made()


def test_the_least_recently_used_entry_is_deleted(folder, monkeypatch):
    """There are at most `MOST_ENTRIES` entries, and a used one stays."""
    monkeypatch.setattr(cache, "MOST_ENTRIES", 3)
    for number in range(3):
        was_made(bytes([number]))
    for age, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, (age, age))
    used = min(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    (number,) = (number for number in range(3) if used.name.endswith(f"{cache.zlib.crc32(bytes([number])):08x}"))
    assert not was_made(bytes([number]))
    was_made(b"one more")
    assert len(list(folder.iterdir())) == 3
    assert not was_made(bytes([number]))
    assert cache.examine() == f"3 entries in {folder}"


def test_a_failure_leaves_nothing(folder):
    """An error of `make` reaches the caller, and nothing is cached."""

    def fail():
        raise LabError("no such member")

    with pytest.raises(LabError, match="no such member"):
        cache.recall("thing", b"source", fail)
    assert not folder.exists()


def test_concurrent_threads_get_their_own_results(folder):
    """Threads that read, write and delete the same entries get the right results and leave no partial file."""
    wrong = []

    def ask(seed):
        for turn in range(100):
            number = bytes([(seed + turn) % 5])
            if cache.recall("thing", number * 1000, lambda number=number: number * 5000) != number * 5000:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(list(folder.iterdir())) == 5
