"""Every row of the corpus is explained in words wherever it is printed."""

import re

from lab.bench.show import tables
from lab.paths import CHECKOUT
from lab.results.corpus import RIGHT_IF
from lab.results.measurement import Measurement

YIELDED = re.compile(r"""(?:\byield |_lasting\(\s*|_verdict\()"([A-Z]\d+)\"""")


def test_every_row_is_explained():
    """The rows that the cases and the chapter on the observer effect yield are those with an explanation."""
    sources = [*(CHECKOUT / "lab/bench/cases").glob("*.py"), CHECKOUT / "lab/bench/chapters/observer_effect.py"]
    assert {row for source in sources for row in YIELDED.findall(source.read_text())} == set(RIGHT_IF)


def test_the_words_are_printed():
    """`lab bench` prints the rows that it has; the documentation has all."""
    rows = [Measurement("corpus", "lab rtt", row, "verdict", [1.0]) for row in ("O1", "X2")]
    text = "\n".join(tables(rows))
    assert all((f"{row}  {words}" in text) is (row in {"O1", "X2"}) for row, words in RIGHT_IF.items())
    documented = (CHECKOUT / "docs" / "benchmarks.md").read_text()
    assert all(f"| {row} | {words} |" in documented for row, words in RIGHT_IF.items())
