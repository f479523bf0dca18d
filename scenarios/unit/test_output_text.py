"""Text from outside is escaped, and the rest stays as it is."""

import csv
import io

import pytest

from lab.output.text import cell, printable, printable_row, tabulated

HOSTILE = "\x1b]0;owned\x07\n192.0.2.1 \u202egnp\u2028"


@pytest.mark.parametrize("text", ["", "nginx: worker", "1.5 µs", "100 %", "日本"])
def test_plain_text_stays(text):
    """Letters of any language, spaces and signs."""
    assert printable(text) == text
    assert cell(text) == text


def test_control_characters_are_escaped():
    """ESC, BEL, newline, the mark that turns the direction of writing, the line separator."""
    assert printable(HOSTILE) == "\\x1b]0;owned\\x07\\n192.0.2.1 \\u202egnp\\u2028"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)"])
def test_a_spreadsheet_takes_nothing_for_a_formula(text):
    """The cell is a text; a number stays a number."""
    assert cell(text) == f"'{text}"
    assert (cell(-1), cell(None), cell(1.5)) == (-1, None, 1.5)


def test_rows_and_tables():
    """One row is one line, whatever its texts are."""
    assert printable_row({"comm": "a\nb", "pid": 1}) == {"comm": "a\\nb", "pid": 1}
    assert len(tabulated([[HOSTILE, 1]], ["name", "number"]).splitlines()) == 3


def test_csv_has_one_line_a_row():
    """Also for programs that know nothing of quoted newlines."""
    file = io.StringIO()
    csv.writer(file).writerow([cell(HOSTILE)])
    assert file.getvalue().count("\n") == 1
