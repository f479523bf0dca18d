"""io_uring(7) by its system calls: a ring that makes one request at a time."""

import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from lab.errors import UnsupportedByKernel
from lab.linux.syscalls import owned, syscall

_GET_EVENTS = 1  # IORING_ENTER_GETEVENTS
_PARAMETERS = 120  # bytes of struct io_uring_params
_SQ_OFFSETS, _CQ_OFFSETS = 40, 80  # of its members `sq_off` and `cq_off`
_REQUESTS = 0x10000000  # IORING_OFF_SQES
_REQUEST = struct.Struct("=BBHiQQII32x")  # struct io_uring_sqe: opcode, flags, ioprio, fd, off, addr, len, msg_flags
_SEND, _RECEIVE = 26, 27  # enum io_uring_op


class Ring:
    """A ring with room for one request. Needs IORING_FEAT_SINGLE_MMAP (Linux 5.4)."""

    def __init__(self, fd: int, parameters: bytes, memory: mmap.mmap, requests: mmap.mmap) -> None:
        self._fd, self._memory, self._requests = fd, memory, requests
        self._tail, self._array = (struct.unpack_from("I", parameters, _SQ_OFFSETS + at)[0] for at in (4, 24))
        head, mask, results = (struct.unpack_from("I", parameters, _CQ_OFFSETS + at)[0] for at in (0, 8, 20))
        self._head, self._mask, self._results = head, self._number(mask), results

    def send(self, sock: socket.socket, data: bytes) -> int:
        """Send data and return the number of bytes. Raises `OSError`."""
        return self._request(_SEND, sock, ctypes.create_string_buffer(data, len(data)))

    def recv(self, sock: socket.socket, size: int) -> bytes:
        """Receive at most `size` bytes. Raises `OSError`."""
        buffer = ctypes.create_string_buffer(size)
        received = self._request(_RECEIVE, sock, buffer)
        return ctypes.string_at(buffer, received)

    def _number(self, at: int) -> int:
        return int(struct.unpack_from("I", self._memory, at)[0])

    def _request(self, operation: int, sock: socket.socket, buffer: "ctypes.Array[ctypes.c_char]") -> int:
        _REQUEST.pack_into(
            self._requests, 0, operation, 0, 0, sock.fileno(), 0, ctypes.addressof(buffer), len(buffer), 0
        )
        struct.pack_into("I", self._memory, self._array, 0)
        struct.pack_into("I", self._memory, self._tail, self._number(self._tail) + 1)
        syscall("io_uring_enter", self._fd, 1, 1, _GET_EVENTS, None, 0)
        head = self._number(self._head)
        result = int(struct.unpack_from("Qi", self._memory, self._results + 16 * (head & self._mask))[1])
        struct.pack_into("I", self._memory, self._head, head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result


@contextmanager
def ring() -> Iterator[Ring]:
    """Yield a new ring. Raises `UnsupportedByKernel` if the kernel has no io_uring or forbids it (io_uring_disabled)."""
    parameters = ctypes.create_string_buffer(_PARAMETERS)
    try:
        opened = syscall("io_uring_setup", 1, parameters)
    except OSError as error:
        raise UnsupportedByKernel.refusal("io_uring", error) from error
    with (
        owned(opened) as fd,
        mmap.mmap(fd, mmap.PAGESIZE) as memory,
        mmap.mmap(fd, mmap.PAGESIZE, offset=_REQUESTS) as requests,
    ):
        yield Ring(fd, parameters.raw, memory, requests)
