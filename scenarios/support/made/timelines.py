"""What both applications know of one connection, made by hand."""

from lab.tcp import Flow
from lab.timeline import Call, Connection, Timeline

FLOW = Flow("192.0.2.1", 40000, "192.0.2.2", 9999)
END = 10_000


def connection(client, server):
    """Both ends of a connection, given by their calls after the opening."""
    opened, accepted = Call("connect", 0, 100), Call("accept", 50, 130)
    return Connection(
        Timeline("client", FLOW, calls=[opened, *client]),
        Timeline("server", FLOW.reversed(), calls=[accepted, *server]),
    )


REQUEST = [Call("send", 200, 210, 300), Call("recv", 220, 400, 300), Call("close", 500, 510)]
REPLY = [Call("recv", 140, 250, 300), Call("send", 300, 320, 300), Call("recv", 330, 600, 0), Call("close", 700, 710)]
