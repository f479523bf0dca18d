"""A case: a situation in which tools are known to tell a wrong number, and what is judged in it."""

from collections.abc import Callable
from dataclasses import dataclass

from lab.judging.description import FRAMES, Description
from lab.judging.happened import Happened
from lab.judging.kind import Compare
from lab.judging.stage import Stage
from lab.results.corpus import RIGHT_IF

Experiment = Callable[[Stage], Happened]


@dataclass(frozen=True)
class Case:
    """A case.

    - `name`: a short name, that of the row of the corpus if it is one.
    - `kinds`: the kinds of quantities that it is put to.
    - `experiment`: causes the traffic. Cases can share one.
    - `about`: the beginnings of the names of the findings that count; empty: all.
    - `compare`: compares the rows with what happened; None: as the kind does.
    - `frames_only`: for tools that see frames. `filtered`: for tools with an option for the local port.
    """

    name: str
    kinds: tuple[str, ...]
    experiment: Experiment
    about: tuple[str, ...] = ()
    compare: Compare | None = None
    frames_only: bool = False
    filtered: bool = False

    @property
    def text(self) -> str:
        """What a correct tool tells, in one sentence."""
        return RIGHT_IF[self.name]

    def asks(self, tool: Description) -> bool:
        """Return whether the case is put to a tool: it claims one of the kinds, and what else the case needs."""
        return (
            any(kind in self.kinds for kind in tool.kinds)
            and (not tool.cases or self.name in tool.cases)
            and (not self.frames_only or tool.attach == FRAMES)
            and (not self.filtered or bool(tool.filters.local_port))
        )

    def counts(self, quantity: str) -> bool:
        """Return whether a finding of this name counts for the case."""
        return not self.about or quantity.startswith(self.about)
