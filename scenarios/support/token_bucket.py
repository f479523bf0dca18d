"""A delay that every kernel with TBF can cause, and whose least size follows from its rate: a token bucket at a host's interface."""

from pyroute2 import IPRoute

from lab.linux.netns import inside


def throttle(host, rate, burst):
    """Let a host send `rate` bytes a second from now on, and `burst` bytes at once."""

    def add():
        with IPRoute() as netlink:
            netlink.tc("add", "tbf", host.ifindex, handle="1:", rate=rate, burst=burst, limit=1 << 20)

    inside(host.name, add)
