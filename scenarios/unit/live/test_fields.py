"""Rows as lists of Python values, one list for each field."""

import argparse
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lab.live import fields
from lab.live.output import Output
from lab.output.json_lines import as_json
from lab.tcp import State

MAPPED = [*bytes(10), 255, 255, 192, 0, 2, 1]


def rows():
    """Return two rows of a program: the first has zeros only."""
    made = np.zeros(
        2,
        [
            ("time_ns", "u8"),
            ("netns", "u4"),
            ("lport", "u2"),
            ("rport", "u2"),
            ("laddr", "u1", 16),
            ("raddr", "u1", 16),
        ],
    )
    made[1] = (1 << 62, 4026531840, 40000, 9999, MAPPED, range(16))
    return made


def test_the_ends_of_sockets():
    """Addresses are text, an IPv4-mapped one as IPv4; 0 is no port and no namespace; numbers are Python's own."""
    first, second = fields.dictionaries(fields.sockets(rows()[::-1]))
    assert list(first.values()) == [4026531840, "192.0.2.1", 40000, "1:203:405:607:809:a0b:c0d:e0f", 9999]
    assert list(second.values()) == [None, "::", None, "::", None]
    assert type(first["local_port"]) is int


def test_the_first_fields():
    """The head of many rows is that of each of them."""
    columns = fields.heads("states", rows()["time_ns"])
    assert list(fields.dictionaries(columns)) == [fields.head("states", time_ns) for time_ns in (0, 1 << 62)]


def test_values():
    """Unknown values are None, names are decoded, and a number without a meaning is an error."""
    numbers = np.array([1, 0, 4], "u1")
    assert fields.not_zero(numbers) == [1, None, 4]
    assert fields.known(numbers, numbers < 4) == [1, 0, None]
    assert fields.known(["a", "b", "c"], numbers > 0) == ["a", None, "c"]
    assert fields.texts(np.array([b"curl", b"\xff"], "S16")) == ["curl", "\ufffd"]
    assert fields.names(State, numbers[::2]) == ["ESTABLISHED", "FIN_WAIT1"]
    with pytest.raises(KeyError):
        fields.names(State, numbers)


def test_no_rows():
    """Nothing comes of nothing."""
    assert list(fields.dictionaries(fields.heads("states", rows()[:0]["time_ns"]) | fields.sockets(rows()[:0]))) == []


@given(
    st.dictionaries(st.text(), st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.text()))
)
@example({"comm": "\x7f\x9b\u2028é"})
def test_json_is_that_of_the_standard_library(row):
    """Whatever the texts are: no control character, and nothing but ASCII."""
    assert as_json(row) == json.dumps(row)


@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_many_rows(capsys, form):
    """Each row is printed once and in order, however many there are; a name with a line feed is no second line."""
    args = argparse.Namespace(json=form == "json", csv=form == "csv", wide=False, metrics=None)
    made = np.zeros(5000, [("n", "u4"), ("comm", "S8")])
    made["n"], made["comm"] = np.arange(5000), b"a\nb"
    Output(args).rows(
        made,
        lambda rows: fields.dictionaries({"n": rows["n"].tolist(), "comm": fields.texts(rows["comm"])}),
        lambda row: f"{row['n']} {row['comm']}",
    )
    lines = capsys.readouterr().out.splitlines()
    expected = {
        "json": [f'{{"n": {n}, "comm": "a\\nb"}}' for n in range(5000)],
        "csv": ["n,comm", *(f"{n},a\\nb" for n in range(5000))],
        "table": [f"{n} a\\nb" for n in range(5000)],
    }
    assert lines == expected[form]
