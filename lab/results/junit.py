"""Checks as JUnit XML for continuous integration: one test case for each check, with a failure if it did not pass."""

import re
from collections.abc import Iterable
from typing import IO
from xml.sax.saxutils import quoteattr

from lab.verdict import Check

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(file: IO[str], checks: Iterable[Check], tests: int, failures: int) -> None:
    """Write checks as JUnit XML. `tests` is their number, `failures` the number that failed."""
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
    """Return a quoted attribute value. Characters that XML forbids, as in some process names, become Python escapes."""
    return quoteattr(_NO_XML.sub(lambda found: repr(found[0])[1:-1], text))
