"""Programs of the probes, changed: made small, or wrong on purpose."""

import re

from lab.program import Program
from lab.source import SOURCES


def altered(text, *changes):
    """Replace each (pattern, replacement) in a source text. A pattern that is no longer found would prove nothing."""
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count, "the source has changed: nothing was made wrong"
    return text


def changed(tmp_path, probe, *changes, defines=()):
    """Change a probe's source and load it."""
    source = tmp_path / "wrong.c"
    source.write_text(altered((SOURCES / f"{probe}.c").read_text(), *changes))
    return Program(source, defines)


def caught(checks):
    """Quantities that were found wrong."""
    return {check.quantity for check in checks if not check.passed}
