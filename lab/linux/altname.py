"""Alternative names of network interfaces (`ip link property add altname`), which may be longer than an interface's name."""

import errno
import os
import socket
import struct

_RTM_GETLINK, _NLM_F_REQUEST, _NLMSG_ERROR = 18, 1, 2
_IFLA_ALT_IFNAME = 53
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_UNKNOWN = (errno.ENODEV, errno.EINVAL, errno.ERANGE, errno.EOPNOTSUPP)  # the last three: too long, or before Linux 5.5


def interface_of(altname: str) -> str | None:
    """Return the name of the interface with this alternative name in the calling thread's namespace; None if there is none."""
    name = os.fsencode(altname) + b"\0"
    attribute = struct.pack("=HH", 4 + len(name), _IFLA_ALT_IFNAME) + name + bytes(-len(name) % 4)
    request = _LINK.pack(0, 0, 0, 0, 0) + attribute
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(_HEADER.pack(_HEADER.size + len(request), _RTM_GETLINK, _NLM_F_REQUEST, 1, 0) + request)
        answer = netlink.recv(1 << 16)
    if _HEADER.unpack_from(answer)[1] == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        if -code in _UNKNOWN:
            return None
        raise OSError(-code, os.strerror(-code))
    return socket.if_indextoname(_LINK.unpack_from(answer, _HEADER.size)[2])
