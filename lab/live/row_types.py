"""Types of the fields that rows of several live tools have: one name means the same in each tool.

They describe the rows that `--json` prints, and `lab schema` prints them as JSON Schema. An address and its port are `local`
and `remote` for a socket, `client` and `server` for a connection, `source` and `destination` for a packet. What fills in the
fields is in `fields.py`, which does not need the library of the types.
"""

from typing import Annotated, TypedDict

from msgspec import Meta

Address = Annotated[str, Meta(description="IPv4 or IPv6 address; an IPv4-mapped address is shown as IPv4")]
Port = Annotated[int, Meta(ge=1, le=65535)]
AnyPort = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=0)]
Moment = Annotated[int, Meta(description="time on CLOCK_MONOTONIC in nanoseconds")]
Span = Annotated[int, Meta(ge=0, description="nanoseconds")]
Sequence = Annotated[int, Meta(ge=0, lt=1 << 32, description="sequence number of TCP")]
Vlan = Annotated[int, Meta(ge=1, le=4095, description="id of the VLAN tag; null: the packet has none")]
InnerVlan = Annotated[int, Meta(ge=1, le=4095, description="id of the second VLAN tag; null: the packet has none")]
Netns = Annotated[int, Meta(ge=0, description="network namespace, by the inode number of /proc/PID/ns/net")]
SocketAddress = Annotated[str, Meta(pattern="^[0-9a-f]+$", description="kernel address of the socket, hexadecimal")]


class Head(TypedDict):
    """The fields of every row."""

    schema: Annotated[str, Meta(description="name of the row's schema and its version")]
    time: Annotated[str, Meta(description="`time_ns` as wall-clock time in UTC (RFC 3339)")]
    time_ns: Moment


class OfSocket(TypedDict):
    """The ends of a TCP socket. null: unknown, or of several values."""

    netns: Netns | None
    local_address: Address | None
    local_port: Port | None
    remote_address: Address | None
    remote_port: Port | None


class OfConnection(TypedDict):
    """The ends of a connection. The client sent the first SYN."""

    client_address: Address
    client_port: AnyPort
    server_address: Address
    server_port: AnyPort


class OfPacket(TypedDict):
    """The ends of a packet. null: it has none, or they cannot be read."""

    source_address: Address | None
    source_port: AnyPort | None
    destination_address: Address | None
    destination_port: AnyPort | None


class OfProcess(TypedDict):
    """A process. null: unknown, or none."""

    pid: Annotated[int | None, Meta(description="id of the process in the PID namespace of the tool")]
    comm: Annotated[str | None, Meta(description="name of the process")]


class OfThread(OfProcess):
    """A process, and the thread of it that made a call. null: unknown, or none."""

    tid: Annotated[int | None, Meta(description="id of the thread that made the system call")]
    thread: Annotated[str | None, Meta(description="name of that thread")]


class Account(TypedDict):
    """The last object of an output: what is missing in it. There is none if nothing is missing."""

    schema: Annotated[str, Meta(description="name of the object's schema and its version")]
    kind: Annotated[str, Meta(description="`account`")]
    events_without_room: Annotated[Count, Meta(description="events for which a buffer or a map had no room")]
    events_withheld: Annotated[Count, Meta(description="events for which the kernel did not run the program")]
    notes: Annotated[list[str], Meta(description="sentences that are also printed on standard error")]
