"""Sockets with timestamped calls for scenarios that do not use the demo, and addresses for them."""

import socket
import time

from lab.timeline import Call
from lab.traffic.demo.stamped_socket import StampedSocket

FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
NOBODY = {4: "192.0.2.77", 6: "2001:db8::77"}
"""Addresses that no host has (RFC 5737, RFC 3849)."""


def accept(listener):
    """Accept a connection; the call is timestamped."""
    enter_ns = time.monotonic_ns()
    child, peer = listener.accept()
    server = StampedSocket("server", child, [Call("accept", enter_ns, time.monotonic_ns())])
    server.identify(peer)
    return server
