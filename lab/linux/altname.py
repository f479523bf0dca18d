"""Alternative names of network interfaces (`ip link property add altname`), which may be longer than an interface's name."""

import errno
import os
import socket
import struct

from lab.linux import rtnetlink

_RTM_GETLINK, _IFLA_ALT_IFNAME = 18, 53
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_UNKNOWN = (errno.ENODEV, errno.EINVAL, errno.ERANGE, errno.EOPNOTSUPP)  # the last three: too long, or before Linux 5.5


def interface_of(altname: str) -> str | None:
    """Return the name of the interface with this alternative name in the calling thread's namespace; None if there is none."""
    name = rtnetlink.attribute(_IFLA_ALT_IFNAME, os.fsencode(altname) + b"\0")
    try:
        _, link = next(rtnetlink.ask(_RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + name))
    except OSError as error:
        if error.errno in _UNKNOWN:
            return None
        raise
    return socket.if_indextoname(_LINK.unpack_from(link)[2])
