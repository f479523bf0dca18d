"""The account of a live tool: silent without a reason, one line for each, and one object with `--json`."""

import argparse
import json

from lab.live.output import Output


def output(**options):
    """Return the output of a tool with these options."""
    return Output(argparse.Namespace(**{"json": False, "csv": False, "wide": False} | options))


def test_nothing_to_tell(capsys):
    """A tool that missed nothing says nothing, in any form."""
    for form in ({}, {"json": True}, {"csv": True}):
        output(**form).end()
    assert capsys.readouterr() == ("", "")


def test_as_text(capsys):
    """Each is a line on standard error when it is known, and none on standard output."""
    tool = output()
    tool.account.add_without_room(3)
    tool.account.add_without_room(4)
    tool.account.add_withheld(2)
    tool.note("")
    tool.note("5 requests are\x1b not shown")
    tool.end()
    out, said = capsys.readouterr()
    assert out == ""
    assert said.splitlines() == [
        "lab: 3 events lost: the output is not complete",
        "lab: 4 events lost: the output is not complete",
        "lab: 2 events lost: the kernel did not run the program for them",
        "lab: 5 requests are\\x1b not shown",
    ]


def test_as_json(capsys):
    """The last object has the sums."""
    tool = output(json=True)
    tool.account.add_without_room(3)
    tool.account.add_without_room(4)
    tool.note("5 requests are not shown")
    tool.end()
    assert json.loads(capsys.readouterr().out) == {
        "schema": "account/1",
        "kind": "account",
        "events_without_room": 7,
        "events_withheld": 0,
        "notes": ["5 requests are not shown"],
    }
