"""System calls as a 32-bit program makes them, which have numbers of their own: by `int 0x80` on x86-64."""

import ctypes
import mmap
import os

from lab.errors import UnsupportedByKernel

READ, WRITE, GETPID = 3, 4, 20  # arch/x86/entry/syscalls/syscall_32.tbl; to a 64-bit program 3 is close()
_MAP_32BIT = 0x40  # 32-bit calls take addresses below 4 GiB
# push %rbx; mov %edi,%ebx; mov %esi,%eax; xchg %edx,%ecx; int $0x80; pop %rbx; ret
# The descriptor stays in %edi, which has the first argument of a 64-bit call: there a probe can mistake it for one.
_CODE = bytes.fromhex("5389fb89f087d1cd805bc3")
_BUFFER_AT = 2048


class CompatCalls:
    """Makes 32-bit system calls on a descriptor. For x86-64. Raises `UnsupportedByKernel` if the kernel has none."""

    def __init__(self) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_32BIT
        self._memory = mmap.mmap(-1, mmap.PAGESIZE, flags, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._memory[: len(_CODE)] = _CODE
        at = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._buffer = at + _BUFFER_AT
        self._call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_int] * 4)(at)
        if not _succeeds(lambda: self._call(0, GETPID, 0, 0) == os.getpid()):
            raise UnsupportedByKernel("this kernel has no 32-bit system calls (CONFIG_IA32_EMULATION)")

    def write(self, fd: int, data: bytes) -> int:
        """Write to a descriptor; return the result of the call."""
        self._memory[_BUFFER_AT : _BUFFER_AT + len(data)] = data
        return int(self._call(fd, WRITE, self._buffer, len(data)))

    def read(self, fd: int, size: int) -> bytes:
        """Read from a descriptor at most this number of bytes."""
        length = self._call(fd, READ, self._buffer, size)
        return bytes(self._memory[_BUFFER_AT : _BUFFER_AT + length])


def _succeeds(call) -> bool:
    """Return whether a call is true in a forked child. Without 32-bit calls the instruction is a segmentation fault."""
    pid = os.fork()
    if not pid:
        os._exit(0 if call() else 1)
    return os.waitpid(pid, 0)[1] == 0
