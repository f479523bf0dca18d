"""A kind of quantity."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from lab.judging.finding import Finding
from lab.judging.happened import Happened
from lab.judging.quantity import Quantity, Told

Compare = Callable[[Quantity, Told, Happened], Iterator[Finding]]


class Kind(NamedTuple):
    """A kind of quantity.

    - `text`: what it is.
    - `fields`: the fields of a row, and what they hold. Those that a tool does not tell are not judged.
    - `compare`: yields the findings of a tool's rows.
    - `timed`: the description names the points from which and to which the value is measured.
    """

    text: str
    fields: Mapping[str, str]
    compare: Compare
    timed: bool = False


ENDS = {
    "laddr": "address of the end that the row names first",
    "lport": "its port",
    "raddr": "address of the other end",
    "rport": "its port",
}
