"""Maps: reading, writing, deleting and clearing."""

import struct
from pathlib import Path

import pytest

from lab.ebpf.maps import Map
from lab.ebpf.spec import MapSpec
from lab.linux import cpus
from lab.linux.bpf import map_lookup_elem, map_update_elem

HASH, ARRAY, PERCPU_ARRAY, LRU_HASH = 1, 2, 6, 9


@pytest.fixture
def made():
    """Create a map."""

    def make(map_type, value_size, entries, key_size=4):
        return Map(MapSpec("a_name_that_is_longer_than_15", map_type, key_size, value_size, entries, 0, [], []))

    return make


def test_a_map_is_closed_with_its_object(made):
    """A process that loads many programs does not keep the maps of deleted ones open."""
    table = made(ARRAY, 8, 1)
    fd = table.fd
    assert "bpf-map" in Path(f"/proc/self/fd/{fd}").readlink().name
    del table
    assert not Path(f"/proc/self/fd/{fd}").is_symlink()


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_numbers_of_an_array(made, size):
    """Each number is read from the index where it was written; after `clear` all are 0."""
    numbers = made(ARRAY, size, 3)
    for index in range(3):
        numbers.write(struct.pack("=B", index + 7), index)
    assert [numbers.number(index) for index in range(3)] == [7, 8, 9]
    numbers.clear()
    assert [numbers.number(index) for index in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("size", [4, 8])
def test_a_number_of_a_percpu_array(made, size):
    """`number` returns the sum over all CPUs."""
    counts = made(PERCPU_ARRAY, size, 2)
    by_cpu = [5 + number for number in range(len(cpus.possible()))]
    counts.write(b"".join(number.to_bytes(8, "little") for number in by_cpu), 1)
    assert (counts.number(0), counts.number(1)) == (0, sum(by_cpu))
    counts.clear()
    assert counts.number(1) == 0


@pytest.mark.parametrize("map_type", [HASH, LRU_HASH])
def test_entries_of_a_hash_map(made, map_type):
    """`entries` returns all entries but the deleted ones, and none after `clear`."""
    table = made(map_type, 16, 1000, key_size=12)
    there = {struct.pack("=Q4x", number): struct.pack("=QQ", number, ~number & 0xFF) for number in range(100)}
    for key, value in there.items():
        map_update_elem(table.fd, key, value)

    def read():
        keys, values = table.entries()
        return {keys[12 * row :][:12]: values[16 * row :][:16] for row in range(len(keys) // 12)}

    assert read() == there
    deleted = [there.popitem()[0] for _ in range(30)]
    table.delete(b"".join(deleted))
    assert read() == there
    with pytest.raises(FileNotFoundError):
        map_lookup_elem(table.fd, deleted[0], 16)
    table.clear()
    assert read() == {}
    table.clear()
    table.delete(b"")
