"""Checks as JUnit XML, which continuous integration shows: a test case each, a failure for what is provably wrong."""

import re
from collections.abc import Iterable
from typing import TextIO
from xml.sax.saxutils import quoteattr

from lab.verdict import Check

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(file: TextIO, checks: Iterable[Check], tests: int, failures: int) -> None:
    """Write checks, of which there are `tests`, and `failures` that are wrong."""
    file.write('<?xml version="1.0" encoding="utf-8"?>\n')
    file.write(f'<testsuite name="lab" tests="{tests}" failures="{failures}">\n')
    for check in checks:
        suite, name = f"{check.scenario}.{check.probe}", f"{check.quantity} of {check.subject}"
        case = f"<testcase classname={_value(suite)} name={_value(name)}"
        file.write(
            f"{case}/>\n" if check.passed else f"{case}><failure message={_value(check.sentence())}/></testcase>\n"
        )
    file.write("</testsuite>\n")


def _value(text: str) -> str:
    """Quote an attribute's value. A character that XML cannot hold, as a process may have in its name, is written as Python does."""
    return quoteattr(_NO_XML.sub(lambda found: repr(found[0])[1:-1], text))
