"""What the cache gives back is what was made from the very same; whatever else lies there is not trusted."""

import os
import threading

import pytest

from lab.ebpf import cache
from lab.errors import LabError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give the cache a place of the test's own, and let it say everything anew."""
    monkeypatch.setattr(cache, "CACHE", tmp_path / "lab")
    monkeypatch.delenv(cache.SWITCH, raising=False)
    cache._say.cache_clear()  # noqa: SLF001 (each test hears what the one before has heard)
    return tmp_path / "lab" / "programs"


def recalled(made_from=b"source", made=b"made"):
    """Ask the cache; tells whether it had to be made."""
    times = []

    def make():
        times.append(1)
        return made

    assert cache.recall("thing", made_from, make) == made
    return len(times) == 1


def entry(folder):
    (path,) = folder.iterdir()
    return path


def test_made_once(folder, capsys):
    """The second time it is there, and nobody else can read or write it."""
    assert recalled()
    assert not recalled()
    assert [path.stat().st_mode & 0o777 for path in (folder, entry(folder))] == [0o700, 0o600]
    assert capsys.readouterr() == ("", "")


def test_nothing_but_the_same_source_will_do(folder, monkeypatch):
    """Even where the file's name is the same, which is a checksum only."""
    monkeypatch.setattr(cache.zlib, "crc32", lambda _: 7)
    assert recalled(b"one", b"1")
    assert recalled(b"other", b"2")
    assert recalled(b"othe", b"r2")
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("position", [0, 4, 8, 12, 17, -1])
def test_a_flipped_bit_is_found(folder, capsys, position):
    """Wherever it is: the entry is made anew, which is said, and good again."""
    recalled()
    data = bytearray(entry(folder).read_bytes())
    data[position] ^= 1
    entry(folder).write_bytes(data)
    assert recalled()
    assert "is damaged" in capsys.readouterr().err
    assert not recalled()


@pytest.mark.parametrize("length", [0, 5, 12, 15])
def test_a_cut_entry_is_found(folder, length):
    """A file that ends too early is no entry."""
    recalled()
    os.truncate(entry(folder), length)
    assert recalled()
    assert not recalled()


def writable(path):
    path.chmod(0o620)


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [writable, link, pipe])
def test_an_entry_of_others_is_refused(folder, capsys, spoil):
    """What others can write to, a link, or no file at all: said, and replaced by one's own."""
    recalled()
    spoil(entry(folder))
    assert recalled()
    assert "lab: " in capsys.readouterr().err
    assert not recalled()


def test_a_folder_of_others_is_left_alone(folder, capsys, monkeypatch):
    """Nothing of it is read, and nothing written to it."""
    recalled()
    before = entry(folder).read_bytes()
    for spoil in (
        lambda: folder.chmod(0o770),
        lambda: (folder.chmod(0o700), monkeypatch.setattr(cache.os, "geteuid", lambda: 12345)),
    ):
        spoil()
        assert recalled()
        assert recalled(b"another source", b"another")
        assert entry(folder).read_bytes() == before
    assert "another user's, or others may write to it" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(folder, capsys):
    """What was made is used, and the reason is said once."""
    folder.parent.write_text("a file is where the folder should be")
    assert recalled()
    assert recalled()
    assert capsys.readouterr().err.count("\n") == 1


def test_off(folder, monkeypatch):
    """Turned off it is neither read nor written; what else it is set to is an error."""
    recalled()
    monkeypatch.setenv(cache.SWITCH, "off")
    assert recalled()
    assert recalled(b"another source")
    assert len(list(folder.iterdir())) == 1
    with pytest.raises(LabError, match="LAB_CACHE=off"):
        cache.examine()
    monkeypatch.setenv(cache.SWITCH, "no")
    with pytest.raises(LabError, match="LAB_CACHE is `no`: set it to off"):
        recalled()


def test_the_least_used_go(folder, monkeypatch):
    """There are never more than so many, and those that are used stay."""
    monkeypatch.setattr(cache, "MOST_ENTRIES", 3)
    for number in range(3):
        recalled(bytes([number]))
    for age, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, (age, age))
    used = min(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    (number,) = (number for number in range(3) if used.name.endswith(f"{cache.zlib.crc32(bytes([number])):08x}"))
    assert not recalled(bytes([number]))
    recalled(b"one more")
    assert len(list(folder.iterdir())) == 3
    assert not recalled(bytes([number]))
    assert cache.examine() == f"3 entries in {folder}"


def test_a_failure_leaves_nothing(folder):
    """What cannot be made is not kept, and the error is the maker's own."""

    def fail():
        raise LabError("no such member")

    with pytest.raises(LabError, match="no such member"):
        cache.recall("thing", b"source", fail)
    assert not folder.exists()


def test_many_at_once(folder):
    """Threads that read, write and drop the same entries: each gets what is its own, and no part of a file is left."""
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
