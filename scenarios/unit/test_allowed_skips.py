"""Which skips a lane may have, and which fail the run."""

import pytest

from lab.errors import LabError
from lab.paths import CHECKOUT
from lab.results import allowed_skips
from lab.results.allowed_skips import Allowed, Lane

READY = Allowed("raw tracepoint:sk_data_ready", "came with 6.2", before="6.2", attach="tracepoint")
REASON = "this kernel refuses the raw tracepoint:sk_data_ready (No such file or directory): see lab doctor"


@pytest.mark.parametrize(
    ("release", "mechanism", "why"),
    [
        ("6.1.0-50-amd64", "tracepoint", "came with 6.2"),
        ("5.10.0-32-amd64", "tracepoint", "came with 6.2"),
        ("6.2.1", "tracepoint", None),
        ("6.12.9", "tracepoint", None),
        ("6.1.0-50-amd64", "fentry", None),
    ],
)
def test_an_entry_is_for_its_lanes(release, mechanism, why):
    """An entry allows a skip by kernel version and mechanism. In any other lane the same skip is not allowed."""
    (skipped,) = allowed_skips.compared([REASON], [READY], Lane(release, mechanism, "real"))
    assert skipped.why == why
    assert ("NOT ALLOWED" in str(skipped)) is (why is None)


def test_reasons_are_counted():
    """Each reason appears once, with its number of skips."""
    found = allowed_skips.compared([REASON, "no bpftool", REASON], [READY], Lane("6.1.0", "tracepoint", "virtual"))
    assert [(skipped.count, skipped.why) for skipped in found] == [(2, "came with 6.2"), (1, None)]


def test_the_list_of_the_suite():
    """The suite's list is valid, and allows no skip on a kernel that has everything the probes need."""
    entries = allowed_skips.allowed(CHECKOUT / "scenarios" / "allowed_skips.toml")
    assert entries
    assert all(entry.why for entry in entries)
    newest = Lane("6.18.0", "fentry", "real")
    assert not any(entry.covers(entry.reason, newest) for entry in entries)


@pytest.mark.parametrize("text", ["[[skip]]\nreason = 1 2", '[[skip]]\nreason = "a"', '[[skip]]\nno = "a"'])
def test_an_invalid_list_is_refused(tmp_path, text):
    """The error is one sentence."""
    path = tmp_path / "list.toml"
    path.write_text(text)
    with pytest.raises(LabError, match="is no list of allowed skips"):
        allowed_skips.allowed(path)
