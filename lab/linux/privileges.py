"""Capabilities of this process (capabilities(7)), and errors that name the missing ones."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError

_NUMBERS = {
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "SYS_RESOURCE": 24,
    "PERFMON": 38,
    "BPF": 39,
}
_IN_SYS_ADMIN = ("BPF", "PERFMON")  # bpf_token_capable() and perfmon_capable() accept CAP_SYS_ADMIN instead
OF_NETWORKS = ("BPF", "PERFMON", "NET_ADMIN", "NET_RAW", "SYS_ADMIN")
"""What root needs to build networks and to observe them."""


def missing(*names: str) -> list[str]:
    """Return the names of the capabilities, given without `CAP_`, that this thread lacks."""
    status = Path("/proc/thread-self/status").read_text(encoding="utf-8")
    effective = int(re.findall(r"^CapEff:\s*(\w+)", status, re.MULTILINE)[0], 16)
    held = {name for name, number in _NUMBERS.items() if effective >> number & 1}
    if "SYS_ADMIN" in held:
        held.update(_IN_SYS_ADMIN)
    return [name for name in names if name not in held]


def require(what: str, *names: str) -> None:
    """Raise `LabError` if this thread lacks one of the capabilities that `what` needs."""
    if lacking := missing(*names):
        raise lack(what, *lacking)


def lack(what: str, *names: str) -> LabError:
    """Return the error for something that fails for lack of these capabilities."""
    return LabError(
        f"{what} needs {_listed(names)}, which this process lacks: run it as root (sudo), or with what it needs (docs/security.md)"
    )


def require_root() -> None:
    """Raise `LabError` unless the process is root, with the capabilities to build networks and to observe them."""
    what = "building network namespaces and loading BPF programs"
    if os.geteuid() != 0:
        raise LabError(
            f"{what} needs {_listed(OF_NETWORKS)}, and the folders /run/netns and /run/lab, which are root's: "
            "run it as root (sudo)"
        )
    require(what, *OF_NETWORKS)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(", ".join(f"CAP_{name}" for name in names).rsplit(", ", 1))
