"""Where the time of each request went, layer by layer, from the client's write() to its read(), on both hosts."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lab.judge_layers import judge_all
from lab.verdict import Check

if TYPE_CHECKING:
    from lab.observed import Observed


def judge(observed: "Observed", scenario: str) -> Iterator[Check]:
    """Compare each request's layers with what both applications know; yields every check."""
    yield from judge_all(observed, observed.judge(scenario, "layers"))
