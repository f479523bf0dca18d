"""Waiting for devices that a scenario adds."""

import time

from support.processes import HUNG_S

_IFF_RUNNING = 0x40


def await_carrier(netlink, index):
    """Wait until a device is operational: its carrier can follow up to a second after it is set up (linkwatch)."""
    deadline = time.monotonic() + HUNG_S
    while not netlink.get_links(index)[0]["flags"] & _IFF_RUNNING:
        assert time.monotonic() < deadline, "the carrier did not come up"
        time.sleep(0.001)
