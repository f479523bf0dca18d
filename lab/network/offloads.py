"""Turning off what lets a host hand over frames that no wire could carry: super-frames, and checksums yet to be computed."""

from pyroute2 import IPRoute

from lab.linux.ethtool import set_offloads
from lab.linux.netns import inside
from lab.network.link import DEVICE


def turn_off(namespace: str) -> None:
    """Make a host send whole frames of at most its MTU. Raises `LabError` where the kernel refuses.

    Without this a frame on a veth may be 64 KB long and have no checksum, which no packet socket can pass on.
    """

    def configure() -> None:
        set_offloads(DEVICE, on=False)
        with IPRoute() as netlink:
            # TCP goes on building super-frames, for the kernel to cut up behind the TC hooks, unless it may not.
            netlink.link("set", index=netlink.link_lookup(ifname=DEVICE)[0], gso_max_segs=1)

    inside(namespace, configure)
