"""Programs of the probes, changed: made small, or wrong on purpose."""

import re

from lab.ebpf.program import Program
from lab.ebpf.source import text_of
from lab.paths import SOURCES


def altered(text, *changes):
    """Replace each (pattern, replacement) in a source text. A pattern that is no longer found would prove nothing."""
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count, "the source has changed: nothing was made wrong"
    return text


def changed(tmp_path, probe, *changes, defines=()):
    """Change a probe's source, with all of its headers, and load it."""
    source = tmp_path / f"wrong_{probe}.c"
    source.write_text(altered(text_of(SOURCES / f"{probe}.c"), *changes))
    return Program(source, defines)


def caught(checks):
    """Quantities that were found wrong."""
    return {check.quantity for check in checks if not check.passed}
