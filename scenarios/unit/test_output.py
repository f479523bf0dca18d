"""Files for output: complete or not there, and no link is followed."""

import os
import stat
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.output import file as output_file


@pytest.fixture
def victim(tmp_path):
    """Return a file that a link elsewhere leads to."""
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_complete_file_takes_the_place(tmp_path):
    """Until the block ends the old file is there, and afterwards nothing else is."""
    path = tmp_path / "out.csv"
    path.write_text("old")
    with output_file.replacing(path) as file:
        file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["out.csv"]


def test_a_failure_leaves_the_old_file(tmp_path):
    """The part that was written is removed."""
    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), output_file.replacing(path) as file:
        file.write(f"new {1 / 0}")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out.csv"]


@pytest.mark.parametrize("opened", [output_file.replacing, output_file.fresh])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_replaced_and_not_followed(tmp_path, victim, opened, dangling):
    """The target keeps its content, or does not come to be."""
    target = tmp_path / "nothing" if dangling else victim
    path = tmp_path / "out.bin"
    path.symlink_to(target)
    with opened(path, "wb") as file:
        file.write(b"new")
    assert not path.is_symlink()
    assert path.read_bytes() == b"new"
    assert victim.read_text() == "precious"
    assert names(tmp_path) == ["out.bin", "victim"]


def test_a_guessed_temporary_name_is_not_used(tmp_path, victim):
    """A link under a predictable name stays as it is, and so does its target."""
    for name in (".out.csv.partial", ".out.csv"):
        (tmp_path / name).symlink_to(victim)
    with output_file.replacing(tmp_path / "out.csv") as file:
        file.write("new")
    assert victim.read_text() == "precious"
    assert names(tmp_path) == [".out.csv", ".out.csv.partial", "out.csv", "victim"]


def test_what_grows_is_there_at_once(tmp_path):
    """A reader can follow it."""
    path = tmp_path / "trace.pcapng"
    with output_file.fresh(path) as file:
        file.write(b"head")
        file.flush()
        assert path.read_bytes() == b"head"


def test_private(tmp_path):
    """Captures hold payload: nobody else reads them."""
    before = os.umask(0)
    try:
        with output_file.fresh(tmp_path / "a", private=True), output_file.replacing(tmp_path / "b", private=True):
            pass
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o600, 0o600]


def test_special_files_are_written_in_place(tmp_path):
    """A device, a pipe, and /dev/stdout, which is a link."""
    with output_file.replacing(Path("/dev/null")) as file:
        file.write("nothing")
    assert Path("/dev/null").is_char_device()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with output_file.fresh(pipe) as file:
        file.write(b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    output_file.require_writable(Path("/dev/stdout"))


def test_appending(tmp_path, victim):
    """Lines are added to a file; a link is refused."""
    for text in (b"1\n", b"2\n"):
        fd = output_file.appending(tmp_path / "statistics.dat")
        os.write(fd, text)
        os.close(fd)
    assert (tmp_path / "statistics.dat").read_bytes() == b"1\n2\n"
    (tmp_path / "link").symlink_to(victim)
    with pytest.raises(LabError, match="is a link, which the lab does not follow: name the file itself"):
        output_file.appending(tmp_path / "link")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("", "Is a directory"), ("no/such", "No such file or directory")],
)
def test_what_cannot_be_written(tmp_path, name, complaint):
    """One sentence, before any work is done."""
    for attempt in (output_file.require_writable, output_file.fresh):
        with pytest.raises(LabError, match=complaint):
            attempt(tmp_path / name)


def test_a_trial_changes_nothing(tmp_path, victim):
    """`require_writable` leaves what it finds."""
    output_file.require_writable(victim)
    assert victim.read_text() == "precious"
    assert names(tmp_path) == ["victim"]


def test_a_pointer_is_moved_at_once(tmp_path, victim):
    """`latest` may be a link, a file or a link to a folder before."""
    link = tmp_path / "latest"
    for before in (lambda: None, lambda: link.unlink() or link.symlink_to(victim)):
        before()
        output_file.point(link, "run-1")
        assert link.readlink() == Path("run-1")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_a_folder_with_code_belongs_to_one_user(tmp_path, mode):
    """Others who may write there could have root run their code."""
    assert output_file.own_folder(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"
    (tmp_path / "new").chmod(mode)
    (tmp_path / "link").symlink_to(tmp_path / "new" / "deep")
    for path in (tmp_path / "new", tmp_path / "link"):
        with pytest.raises(LabError, match="can be changed by other users, and the lab runs what is in it"):
            output_file.own_folder(path)


@pytest.mark.parametrize(("mode", "refused"), [(0o755, False), (0o1777, False), (0o777, True), (0o775, True)])
def test_a_folder_below_a_shared_one(tmp_path, mode, refused):
    """Other users could move it away and put a link in its place, unless the sticky bit protects it."""
    above = tmp_path / "above"
    (folder := above / "results").mkdir(parents=True)
    above.chmod(mode)
    if refused:
        with pytest.raises(LabError, match=rf"results cannot be used, since {above} .*: choose another"):
            output_file.require_unchangeable(folder, "choose another")
    else:
        output_file.require_unchangeable(folder, "choose another")


@pytest.mark.parametrize("wrong", ["link", "sticky", "other user"])
def test_a_folder_that_is_not_ones_own(tmp_path, monkeypatch, wrong):
    """The owner is trusted if he has called sudo."""
    (folder := tmp_path / "results").mkdir()
    if wrong == "link":
        folder.rmdir()
        folder.symlink_to(tmp_path)
    elif wrong == "sticky":
        folder.chmod(0o1777)
    elif os.geteuid() == 0:
        os.chown(folder, 4321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(LabError, match="is a link or can be changed by other users"):
        output_file.require_unchangeable(folder, "choose another")
    monkeypatch.setenv("SUDO_UID", str(folder.lstat().st_uid))
    if wrong == "other user":
        output_file.require_unchangeable(folder, "choose another")
