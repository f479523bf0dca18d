"""The maps of a loaded program: numbers and structs that the program and the lab share."""

import os
import resource
from contextlib import suppress
from weakref import finalize

from lab.ebpf.spec import MapSpec
from lab.linux import cpus
from lab.linux.bpf import map_create, map_delete_batch, map_lookup_batch, map_lookup_elem, map_update_elem

_ARRAY, _PERCPU_ARRAY = 2, 6  # BPF_MAP_TYPE_...
_NAME_LENGTH = 15


class Map:
    """A map in the kernel, for as long as this object lives. `OSError` says why the kernel refuses it.

    An array's keys are numbers from 0; of a per-CPU array, each value is the values of all processors in a row.
    """

    def __init__(self, spec: MapSpec) -> None:
        self.spec = spec
        try:
            self.fd = _create(spec)
        except PermissionError:
            # Before Linux 5.11, maps count against a limit that is too low for any of the lab's.
            with suppress(ValueError):  # not allowed: then the limit has to do
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            self.fd = _create(spec)
        finalize(self, os.close, self.fd)
        self._stride = -(-spec.value_size // 8) * 8 if spec.map_type == _PERCPU_ARRAY else spec.value_size
        self._values = len(cpus.possible()) if spec.map_type == _PERCPU_ARRAY else 1

    def read(self, index: int = 0) -> bytes:
        """Read an array's value."""
        return map_lookup_elem(self.fd, _key(index), self._stride * self._values)

    def number(self, index: int = 0) -> int:
        """Read a number from an array, from a per-CPU one the sum of all processors'."""
        data = self.read(index)
        starts = range(0, len(data), self._stride)
        return sum(int.from_bytes(data[start : start + self.spec.value_size], "little") for start in starts)

    def write(self, value: bytes, index: int = 0) -> None:
        """Write an array's value, with zeros behind what is given."""
        map_update_elem(self.fd, _key(index), value.ljust(self._stride * self._values, b"\0"))

    def entries(self) -> tuple[bytes, bytes]:
        """Read a hash map: all keys in a row, and all values."""
        return map_lookup_batch(self.fd, self.spec.key_size, self.spec.value_size, self.spec.max_entries)

    def delete(self, keys: bytes) -> None:
        """Delete entries of a hash map by their keys, given in a row."""
        if keys:
            map_delete_batch(self.fd, keys, len(keys) // self.spec.key_size)

    def clear(self) -> None:
        """Empty a hash map, set an array to zeros."""
        if self.spec.map_type in (_ARRAY, _PERCPU_ARRAY):
            for index in range(self.spec.max_entries):
                self.write(b"", index)
        else:
            self.delete(self.entries()[0])


def _create(spec: MapSpec) -> int:
    sizes = (spec.key_size, spec.value_size, spec.max_entries)
    return map_create(spec.map_type, *sizes, flags=spec.flags, name=spec.name[:_NAME_LENGTH])


def _key(index: int) -> bytes:
    return index.to_bytes(4, "little")
