"""Checks as JUnit XML for continuous integration: one test case for each quantity of a probe in a scenario."""

import re
from collections.abc import Iterable, Iterator
from typing import IO
from xml.sax.saxutils import quoteattr

from lab.verdict import Check

_MOST = 5  # sentences of a failure
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(file: IO[str], checks: Iterable[Check]) -> None:
    """Write checks as JUnit XML. A test case has failed if one of its checks did not pass; the first few say how."""
    numbers: dict[tuple[str, str], int] = {}
    failed: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        case = f"{check.scenario}.{check.probe}", check.quantity
        numbers[case] = numbers.get(case, 0) + 1
        if not check.passed:
            failed.setdefault(case, []).append(check.sentence())
    file.write('<?xml version="1.0" encoding="utf-8"?>\n')
    file.write(f'<testsuite name="lab" tests="{len(numbers)}" failures="{len(failed)}">\n')
    for case, number in numbers.items():
        wrong = failed.get(case, [])
        message = f"{len(wrong)} of {number} are wrong: {'; '.join(wrong[:_MOST])}"
        file.writelines(case_lines(*case, "failure" if wrong else "", message))
    file.write("</testsuite>\n")


def case_lines(suite: str, name: str, outcome: str, message: str) -> Iterator[str]:
    """Yield the text of a test case. `outcome` is `failure`, `skipped`, or empty if it has passed."""
    yield f"<testcase classname={_value(suite)} name={_value(name)}"
    yield f"><{outcome} message={_value(message)}/></testcase>\n" if outcome else "/>\n"


def _value(text: str) -> str:
    """Return a quoted attribute value. Characters that XML forbids, as in some process names, become Python escapes."""
    return quoteattr(_NO_XML.sub(lambda found: repr(found[0])[1:-1], text))
