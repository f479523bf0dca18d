"""The page `docs/judge-your-tool.md`: what it says besides its sessions, which `test_pages.py` runs."""

import re

import pytest
from support.pages import files_of
from support.processes import lab_command

from lab.judging.description import Description, Output
from lab.judging.kinds import KINDS
from lab.judging.points import POINTS
from lab.judging.quantity import Quantity
from lab.paths import CHECKOUT

PAGE = (CHECKOUT / "docs" / "judge-your-tool.md").read_text()
FILES = files_of(CHECKOUT / "docs" / "judge-your-tool.md")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Enter an empty folder with the page's files."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_other_definition(folder):
    """As the page says: by its own definition tcplife is right, and the table says what is not in it."""
    text = (folder / "life.toml").read_text()
    own = text.replace("syn_seen", "established_entered").replace("first_end_seen", "socket_closed")
    (folder / "own.toml").write_text(own)
    done = lab_command("judge", "own.toml", "--case", "N1", "--all")
    assert done.returncode == 0, done.stdout
    assert "it measures from established_entered to socket_closed, without the handshake" in done.stdout


def test_a_newcomer_needs_few_lines():
    """A bpftrace script and its description are twenty lines."""
    assert len(FILES["connect.toml"].splitlines()) <= 20


def test_every_setting_is_documented():
    """The tables name every kind and every setting of a description."""
    words = set(re.findall(r"[\w-]+", PAGE))
    hidden = {"ours", "group", "bench", "quantities"}
    settings = {*Description.__struct_fields__, *Output.__struct_fields__, *Quantity.__struct_fields__} - hidden
    aliases = {"start": "from", "end": "to"}
    assert {aliases.get(name, name) for name in settings} | set(KINDS) <= words


def test_the_picture_has_the_points():
    """Every point of the picture is one of the vocabulary, and has a name there."""
    names = set(
        re.findall(
            r">([a-z0-9]+(?:_[a-z0-9]+)+)</text>", (CHECKOUT / "docs" / "points.svg").read_text(encoding="utf-8")
        )
    )
    assert names
    assert names <= set(POINTS)
