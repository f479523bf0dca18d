"""Every row of the corpus is explained in words wherever it is printed."""

from lab.bench.show import tables
from lab.judging import cases
from lab.paths import CHECKOUT
from lab.results.corpus import RIGHT_IF
from lab.results.measurement import Measurement


def test_every_row_is_explained():
    """The cases, and O1 and X2 of the chapter on the observer effect, are those with an explanation."""
    assert {case.name for case in cases.every()} | {"O1", "X2"} == set(RIGHT_IF)


def test_the_words_are_printed():
    """`lab bench` prints the rows that it has; the documentation has all."""
    rows = [Measurement("corpus", "lab rtt", row, "verdict", [1.0]) for row in ("O1", "X2")]
    text = "\n".join(tables(rows))
    assert all((f"{row}  {words}" in text) is (row in {"O1", "X2"}) for row, words in RIGHT_IF.items())
    documented = (CHECKOUT / "docs" / "benchmarks.md").read_text()
    assert all(f"| {row} | {words} |" in documented for row, words in RIGHT_IF.items())
