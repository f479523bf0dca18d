"""Errors that are shown to the user as one sentence, without a traceback, with exit status 2."""


class LabError(Exception):
    """An error that the user can fix. The message is one sentence that says how."""


class UnsupportedByKernel(LabError):  # noqa: N818 (a state of the kernel, not a mistake)
    """This kernel lacks something that a probe needs.

    A scenario that raises it is skipped if the lane allows the skip (lab/results/allowed_skips.py).
    """


class EventsLost(LabError):  # noqa: N818 (named after the event)
    """A recording is incomplete because buffers were full. `lost` has the number of lost events by probe."""

    def __init__(self, lost: dict[str, int]) -> None:
        self.lost = lost
        counts = ", ".join(f"{count} of {probe}" for probe, count in lost.items())
        super().__init__(
            f"the recording lost events ({counts}): drain more often, enlarge the ring or ask for a lossy recording"
        )


class EventsWithheld(LabError):  # noqa: N818 (as above)
    """The kernel did not run a BPF program for some events.

    `withheld` has their number by probe (`lab.recording.recording.Recording`).
    """

    def __init__(self, withheld: dict[str, int]) -> None:
        self.withheld = withheld
        counts = ", ".join(f"{count} of {probe}" for probe, count in withheld.items())
        super().__init__(f"this kernel did not run the probe for some events ({counts}): record again")


class FramesDropped(LabError):  # noqa: N818 (as above)
    """The kernel dropped frames between two namespaces, for example because a processor could not keep up."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(f"the kernel dropped {count} frames between the namespaces: record again with less traffic")
