"""Maps of loaded programs: reading and writing the data that a BPF program and the lab share."""

import os
import resource
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from weakref import finalize

from lab import parallel
from lab.ebpf.spec import MapSpec
from lab.linux import cpus
from lab.linux.bpf import map_create, map_delete_batch, map_lookup_batch, map_lookup_elem, map_update_elem

_ARRAY, _PERCPU_ARRAY = 2, 6  # BPF_MAP_TYPE_...
_NAME_LENGTH = 15


class Map:
    """A map in the kernel, which exists as long as this object. Raises `OSError` when the kernel refuses it.

    The keys of an array are indexes from 0. A value of a per-CPU array is the values of all possible CPUs in a row.
    """

    def __init__(self, spec: MapSpec, like: "Map | None" = None) -> None:
        """Create a map. `like` is one of those that a map of maps contains."""
        self.spec = spec
        create = partial(_create, spec, like.fd if like else 0)
        self.fd: int
        try:
            self.fd = create()
        except PermissionError:
            # Before Linux 5.11 the memory of maps counts against RLIMIT_MEMLOCK, which is too low by default.
            with suppress(ValueError):  # not allowed to raise it: try with the present limit
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            self.fd = create()
        finalize(self, os.close, self.fd)
        self._stride = -(-spec.value_size // 8) * 8 if spec.map_type == _PERCPU_ARRAY else spec.value_size
        self._values = len(cpus.possible()) if spec.map_type == _PERCPU_ARRAY else 1

    def read(self, index: int = 0) -> bytes:
        """Return one value of an array."""
        return map_lookup_elem(self.fd, _key(index), self._stride * self._values)

    def number(self, index: int = 0) -> int:
        """Return one number of an array; of a per-CPU array, the sum over all CPUs."""
        data = self.read(index)
        starts = range(0, len(data), self._stride)
        return sum(int.from_bytes(data[start : start + self.spec.value_size], "little") for start in starts)

    def write(self, value: bytes, index: int = 0) -> None:
        """Write one value of an array, padded with zeros."""
        map_update_elem(self.fd, _key(index), value.ljust(self._stride * self._values, b"\0"))

    def put(self, key: bytes, value: bytes) -> None:
        """Add or replace an entry of a hash map."""
        map_update_elem(self.fd, key, value)

    def entries(self) -> tuple[bytes, bytes]:
        """Return the entries of a hash map: all keys in a row, and all values in a row."""
        return map_lookup_batch(self.fd, self.spec.key_size, self.spec.value_size, self.spec.max_entries)

    def delete(self, keys: bytes) -> None:
        """Delete entries of a hash map; `keys` are in a row."""
        if keys:
            map_delete_batch(self.fd, keys, len(keys) // self.spec.key_size)

    def clear(self) -> None:
        """Delete all entries of a hash map, or set an array to zeros."""
        if self.spec.map_type in (_ARRAY, _PERCPU_ARRAY):
            for index in range(self.spec.max_entries):
                self.write(b"", index)
        else:
            self.delete(self.entries()[0])


def give_each_cpu(by_cpu: Map, rings: Sequence[Map]) -> None:
    """Give each CPU one of the rings: those with neighbouring numbers have different ones.

    The kernel waits for a grace period after each change of a map of maps (maybe_wait_bpf_programs()). Changes by several
    threads wait for the same one.
    """

    def give(cpu: int) -> None:
        by_cpu.write(rings[cpu % len(rings)].fd.to_bytes(4, "little"), cpu)

    parallel.each(give, range(by_cpu.spec.max_entries))


def _create(spec: MapSpec, inner_fd: int) -> int:
    sizes = (spec.key_size, spec.value_size, spec.max_entries)
    return map_create(spec.map_type, *sizes, flags=spec.flags, inner_fd=inner_fd, name=spec.name[:_NAME_LENGTH])


def _key(index: int) -> bytes:
    return index.to_bytes(4, "little")
