"""The errors a user can meet: each is one sentence that says what to do, shown without a traceback, exit status 2."""


class LabError(Exception):
    """Something the user can put right; the message is one sentence that says how."""


class UnsupportedByKernel(LabError):  # noqa: N818 (as the kernel's own word for it)
    """This kernel cannot do what a probe needs.

    A scenario that meets it is skipped if the lane allows the skip (lab/results/allowed_skips.py).
    """


class EventsLost(LabError):  # noqa: N818 (the name the design gives it)
    """A recording is incomplete: `lost` events, by probe, found no room."""

    def __init__(self, lost: dict[str, int]) -> None:
        self.lost = lost
        counts = ", ".join(f"{count} of {probe}" for probe, count in lost.items())
        super().__init__(
            f"the recording lost events ({counts}): drain more often, enlarge the ring or ask for a lossy recording"
        )


class EventsWithheld(LabError):  # noqa: N818 (as above)
    """The kernel did not run a probe for `withheld` events, by probe (`lab.ebpf.recording.Recording`)."""

    def __init__(self, withheld: dict[str, int]) -> None:
        self.withheld = withheld
        counts = ", ".join(f"{count} of {probe}" for probe, count in withheld.items())
        super().__init__(f"this kernel did not run the probe for some events ({counts}): record again")


class FramesDropped(LabError):  # noqa: N818 (as above)
    """The kernel dropped frames of a wire between two namespaces, as it does when a processor cannot keep up with what it is sent."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(
            f"this kernel dropped frames between the namespaces, {count} of them: record again, with less traffic"
        )
