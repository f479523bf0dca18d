"""The page `docs/judge-your-tool.md` works as it is written: its files, its commands, and the verdicts that it shows."""

import re
import shlex
import time

import pytest
from support.processes import lab_command

from lab.judging.description import Description, Output
from lab.judging.finding import Verdict
from lab.judging.kinds import KINDS
from lab.judging.points import POINTS
from lab.judging.quantity import Quantity
from lab.paths import CHECKOUT

PAGE = (CHECKOUT / "docs" / "judge-your-tool.md").read_text()
FILES = dict(re.findall(r"[Ww]rite `([\w.]+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL))
SESSIONS = re.findall(r"```console\n# lab (.*?)\n(.*?)```", PAGE, re.DOTALL)
VERDICT = re.compile(rf"^([A-Z]\d\w*) .*?\b({'|'.join(Verdict)})\s*$", re.MULTILINE)
MOST_S = 5 * 60  # from the page to a verdict


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Enter an empty folder with the page's files."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("command", "shown"), SESSIONS, ids=[command.split()[1] for command, _ in SESSIONS])
def test_a_session(command, shown):
    """Each case has the verdict that the page shows, and the evidence has the sentences that it shows, up to numbers."""
    begun = time.monotonic()
    done = lab_command(*shlex.split(command))
    assert time.monotonic() - begun < MOST_S
    assert done.returncode == 1, done.stderr
    expected = VERDICT.findall(shown)
    assert len(expected) == len(re.findall(r"^[A-Z]\d", shown, re.MULTILINE))
    assert VERDICT.findall(done.stdout) == expected
    for line in re.findall(r"^  (?:wrong|missing): ([^:]*? of )", shown, re.MULTILINE):
        assert line in done.stdout


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
    names = set(re.findall(r">(\w+_\w+)</text>", (CHECKOUT / "docs" / "points.svg").read_text(encoding="utf-8")))
    assert names
    assert names <= set(POINTS)
