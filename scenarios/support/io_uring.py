"""io_uring(7) by its system calls: a ring that makes one request at a time."""

import ctypes
import mmap
import os
import struct
from contextlib import contextmanager

_SETUP, _ENTER = 425, 426  # the same on every machine
_GET_EVENTS = 1  # IORING_ENTER_GETEVENTS
_PARAMETERS = 120  # bytes of struct io_uring_params
_SQ_OFFSETS, _CQ_OFFSETS = 40, 80  # of its members `sq_off` and `cq_off`
_REQUESTS = 0x10000000  # IORING_OFF_SQES
_REQUEST = struct.Struct("=BBHiQQII32x")  # struct io_uring_sqe: opcode, flags, ioprio, fd, off, addr, len, msg_flags
_SEND, _RECEIVE = 26, 27  # enum io_uring_op
_LIBC = ctypes.CDLL(None, use_errno=True)


def _call(*arguments):
    result = _LIBC.syscall(*(ctypes.c_long(it) if isinstance(it, int) else it for it in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Ring:
    """A ring with room for one request. Needs IORING_FEAT_SINGLE_MMAP (Linux 5.4)."""

    def __init__(self, fd, parameters, memory, requests):
        self._fd, self._memory, self._requests = fd, memory, requests
        self._tail, self._array = (struct.unpack_from("I", parameters, _SQ_OFFSETS + at)[0] for at in (4, 24))
        head, mask, results = (struct.unpack_from("I", parameters, _CQ_OFFSETS + at)[0] for at in (0, 8, 20))
        self._head, self._mask, self._results = head, self._number(mask), results

    def send(self, sock, data):
        """Send data; return the number of bytes, or a negative errno."""
        return self._request(_SEND, sock, ctypes.create_string_buffer(data, len(data)))

    def recv(self, sock, size):
        """Receive at most `size` bytes; return the data."""
        buffer = ctypes.create_string_buffer(size)
        received = self._request(_RECEIVE, sock, buffer)
        return buffer.raw[:received]

    def _number(self, at):
        return struct.unpack_from("I", self._memory, at)[0]

    def _request(self, operation, sock, buffer):
        _REQUEST.pack_into(
            self._requests, 0, operation, 0, 0, sock.fileno(), 0, ctypes.addressof(buffer), len(buffer), 0
        )
        struct.pack_into("I", self._memory, self._array, 0)
        struct.pack_into("I", self._memory, self._tail, self._number(self._tail) + 1)
        _call(_ENTER, self._fd, 1, 1, _GET_EVENTS, None, 0)
        head = self._number(self._head)
        _, result = struct.unpack_from("Qi", self._memory, self._results + 16 * (head & self._mask))
        struct.pack_into("I", self._memory, self._head, head + 1)
        return result


@contextmanager
def ring():
    """Yield a new ring. Raises `OSError` if the kernel has no io_uring or forbids it."""
    parameters = ctypes.create_string_buffer(_PARAMETERS)
    fd = _call(_SETUP, 1, parameters)
    try:
        with mmap.mmap(fd, mmap.PAGESIZE) as memory, mmap.mmap(fd, mmap.PAGESIZE, offset=_REQUESTS) as requests:
            yield Ring(fd, parameters.raw, memory, requests)
    finally:
        os.close(fd)
