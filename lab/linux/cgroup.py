"""Cgroups of version 2: the root, which programs for all sockets are attached to, and the number of each."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.errors import LabError
from lab.linux import tracefs
from lab.linux.syscalls import owned, syscall

_FSCONFIG_CMD_CREATE = 6
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC


@contextmanager
def root() -> Iterator[Path]:
    """Yield the folder of the root of the cgroup v2 hierarchy, for the block. Raises `LabError` if it cannot be had.

    Where none is mounted, this process opens one that no mount namespace contains (fsmount(2)): nobody else sees it, and
    it hides nothing. So it is on machines with cgroup v1 only, and in the mount namespace that `ip netns exec` makes,
    where `/sys` is a new sysfs without what was mounted in it (netns_switch() of iproute2).
    """
    if places := tracefs.mounts("cgroup2"):
        yield places[0]
        return
    try:
        with owned(syscall("fsopen", b"cgroup2", _CLOEXEC)) as context:
            syscall("fsconfig", context, _FSCONFIG_CMD_CREATE, None, None, 0)
            mount = syscall("fsmount", context, _CLOEXEC, 0)
    except OSError as error:
        raise LabError(
            f"this mount namespace has no cgroup v2 hierarchy, and the kernel opens none ({error.strerror}): "
            "run the tool outside of it, with --netns instead of `ip netns exec`"
        ) from error
    with owned(mount):
        yield Path(f"/proc/self/fd/{mount}")


def inode_of(name: str) -> int:
    """Return the inode number of a cgroup, which is its id in the kernel.

    `name` is the path of its folder, or its path below the root, such as `system.slice/nginx.service`. Raises `LabError` if it
    is no cgroup of version 2.
    """
    with root() as place:
        for path in (Path(name), place / name.lstrip("/")):
            if (path / "cgroup.controllers").exists():  # version 1 has no such file
                return path.stat().st_ino
        raise LabError(
            f"there is no cgroup `{name}` of version 2: give the path of its folder (`systemd-cgls` lists them)"
        )
