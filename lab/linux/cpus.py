"""The machine's processors, by number."""


def online() -> list[int]:
    """Return those that run now."""
    return _listed("online")


def possible() -> list[int]:
    """Return those that may ever run while this kernel does: what a per-CPU map has a value for."""
    return _listed("possible")


def _listed(which: str) -> list[int]:
    """Read a list of the form `0-3,5`."""
    with open(f"/sys/devices/system/cpu/{which}") as file:  # noqa: PTH123 (one line of a pseudo-file)
        ranges = [part.split("-") for part in file.read().strip().split(",")]
    return [cpu for first, *last in ranges for cpu in range(int(first), int(last[0] if last else first) + 1)]
