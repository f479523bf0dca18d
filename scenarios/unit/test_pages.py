"""What a page of the documentation shows, against what a command prints: what may differ, and what may not."""

import pytest
from support.pages import commands_of, pattern_of


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("took 8.3 us", "took 1.25 ms"),
        ("at 16:22:34, 5 rows", "at 09:01:02, 1,024 rows"),
        ("|****    .  |", "|.          |"),
        ("a    b\n---  ---\n", "a          b\n---------  ---\n\n"),
        ("head\n...\ntail", "head\ntail"),
        ("head\n...\ntail", "head\nbetween\nand more\ntail"),
        ("lab-8a404c-0-client  192.0.2.1", "lab-0123ab-17-client  192.0.2.1"),
        ("ffff888109e19bc0 2001:db8::1", "ffff88835a4aca00 2001:db8::1"),
    ],
)
def test_what_may_differ(shown, printed):
    """Numbers, units, bars, widths, names of instances, addresses of the kernel, and what `...` stands for."""
    assert pattern_of(shown).fullmatch(printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("FIN_WAIT1 0.7", "FIN_WAIT2 0.7"),
        ("MS 0.7", "MS -"),
        ("192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::2"),
        ("right", "right\nwrong"),
        ("head\n...\ntail", "head"),
    ],
)
def test_what_may_not_differ(shown, printed):
    """Words, addresses, unknown values, further lines."""
    assert not pattern_of(shown).fullmatch(printed)


def test_ports_of_the_command():
    """A port that the command names is the port that is printed."""
    assert pattern_of("127.0.0.1:8080", "lab layers --port 8080").fullmatch("127.0.0.1:8080")
    assert not pattern_of("127.0.0.1:8080", "lab layers --port 8080").fullmatch("127.0.0.1:9000")


def test_a_session():
    """Commands after a prompt, with what is shown below each; a backslash continues a command in the next line."""
    first, second = commands_of("# one --long \\\n    --line\nshown\n\n$ two\n")
    assert (first.line.split(), first.shown) == (["one", "--long", "--line"], "shown\n\n")
    assert (second.line, second.shown) == ("two", "")
