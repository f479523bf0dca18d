"""Turning off the offloads of a host, which otherwise sends super-frames and frames without a checksum."""

from pyroute2 import IPRoute

from lab.linux.ethtool import set_offloads
from lab.linux.netns import inside
from lab.network.link import DEVICE


def turn_off(namespace: str) -> None:
    """Make a host send complete frames of at most its MTU. Raises `LabError` if the kernel refuses.

    With offloads a frame on a veth may be 64 KB long and have no checksum. A packet socket cannot forward that frame.
    """

    def configure() -> None:
        set_offloads(DEVICE, on=False)
        with IPRoute() as netlink:
            # Without this limit TCP still builds super-frames, which the kernel cuts after the TC hooks.
            netlink.link("set", index=netlink.link_lookup(ifname=DEVICE)[0], gso_max_segs=1)

    inside(namespace, configure)
