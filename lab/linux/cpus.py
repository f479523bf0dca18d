"""The numbers of the machine's CPUs. Source: `/sys/devices/system/cpu/`."""


def online() -> list[int]:
    """Return the CPUs that are online."""
    return _listed("online")


def possible() -> list[int]:
    """Return the CPUs that can come online without a reboot. A per-CPU map has one value for each."""
    return _listed("possible")


def _listed(which: str) -> list[int]:
    """Read a list of the form `0-3,5`."""
    with open(f"/sys/devices/system/cpu/{which}", encoding="utf-8") as file:  # noqa: PTH123 (one line of a pseudo-file)
        ranges = [part.split("-") for part in file.read().strip().split(",")]
    return [cpu for first, *last in ranges for cpu in range(int(first), int(last[0] if last else first) + 1)]
