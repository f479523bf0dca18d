"""sendmmsg(2) and recvmmsg(2), which Python does not have: several messages of a socket in one call."""

import ctypes
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_VECTOR = struct.Struct("PN")  # struct iovec
_MESSAGE = struct.Struct("PI4xPN16xi4xI4x")  # struct mmsghdr: a struct msghdr with one vector, and the length


def sendmmsg(sock: socket.socket, messages: list[bytes]) -> list[int]:
    """Send messages in one call; return the number of bytes of each that was sent. Raises `OSError`."""
    buffers = [ctypes.create_string_buffer(message, len(message)) for message in messages]
    return _call(lambda array: _LIBC.sendmmsg(sock.fileno(), array, len(buffers), 0), buffers)


def recvmmsg(sock: socket.socket, sizes: list[int], flags: int = 0) -> list[bytes]:
    """Receive messages of at most these sizes in one call. Raises `OSError`."""
    buffers = [ctypes.create_string_buffer(size) for size in sizes]
    lengths = _call(lambda array: _LIBC.recvmmsg(sock.fileno(), array, len(buffers), flags, None), buffers)
    return [ctypes.string_at(buffer, length) for buffer, length in zip(buffers, lengths, strict=False)]


def _call(call: Callable[[Any], int], buffers: "list[ctypes.Array[ctypes.c_char]]") -> list[int]:
    """Make a call with one message for each buffer; return the lengths of those that it sent or received."""
    packed = [_VECTOR.pack(ctypes.addressof(buffer), len(buffer)) for buffer in buffers]
    vectors = [ctypes.create_string_buffer(vector, len(vector)) for vector in packed]
    array = ctypes.create_string_buffer(_MESSAGE.size * len(buffers))
    for number, vector in enumerate(vectors):
        _MESSAGE.pack_into(array, number * _MESSAGE.size, 0, 0, ctypes.addressof(vector), 1, 0, 0)
    count = call(array)
    if count < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return [_MESSAGE.unpack_from(array, number * _MESSAGE.size)[-1] for number in range(count)]
