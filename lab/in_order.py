"""Events of all processors in one order, by kernel time, as they come: exact, without waiting for a guessed time.

A program that reads the clock when its record has its place in the ring makes it so: whatever was stamped before the reader
looked at the ring's end had its place by then. When that look found every place filled, nothing older can come.
"""

import numpy as np

from lab.ring import Events


class InOrder:
    """Holds back events until nothing older can come."""

    def __init__(self) -> None:
        self._held: Events | None = None
        self._complete_ns = 0

    def add(self, batch: Events, read_ns: int, *, complete: bool) -> Events:
        """Take what was drained, beginning at `read_ns`; returns what is final, oldest first.

        `complete` says that the drain met no record whose writer was still at work.
        """
        if complete:
            self._complete_ns = read_ns
        held = batch if self._held is None else np.concatenate([self._held, batch])
        held = held[np.argsort(held["time_ns"], kind="stable")]
        final = int(np.searchsorted(held["time_ns"], self._complete_ns, side="right"))
        self._held = held[final:]
        return held[:final]

    def rest(self) -> Events | None:
        """Return what is still held back, for when nothing more will come."""
        return self._held
