"""Totals that programs keep in the kernel, taken by epochs: each event is counted in exactly one reading.

The problem: a program adds each event to an entry of the hash map `totals`, for instance packets and bytes by flow. The
reader wants the sum of each interval, while programs on all CPUs continue to add.

What does not work:

- Read the map, then delete its entries. An event that a program adds to an entry between read and deletion is in no
  reading.
- Read the map and subtract the previous reading. The numbers are right, but entries of old flows are never deleted.
  They fill the map, and new flows find no room.
- Look up and delete an entry in one call. A program that looked the entry up before that call has a pointer to it, and
  adds its event after the deletion. The event is in no reading.

The solution: the key of an entry has a member `u32 epoch`, which the program takes from current_epoch()
(`bpf/include/epochs.h`). `take` does four steps:

1. Write the next number to the map `epochs`. Programs that read the number after that add to entries of the next epoch.
2. Wait for a grace period. Programs run inside RCU read-side sections, which the grace period waits for: each program
   that read the old number has ended.
3. Read the whole map. The values of the old epoch cannot change.
4. Delete the entries of the old epoch.

An example: the epoch is 7, and three CPUs handle packets of the flow F.

    0 us    CPU 1  program A reads epoch 7
    1 us    CPU 0  the reader writes epoch 8 and waits for a grace period
    2 us    CPU 2  program B reads epoch 8, adds its packet to (8, F) and ends
    3 us    CPU 1  program A adds its packet to (7, F) and ends
    5 ms    CPU 0  the grace period ends: no program of epoch 7 is left
    5.1 ms  CPU 0  the reader reads the map, takes (7, F) with the packet of A, and deletes it
                   (8, F) with the packet of B stays for the next reading

The price: during the wait the map holds entries of two epochs. If a program finds no room in it, it counts a lost
event.
"""

import struct

import numpy as np

from lab.arrays import Events
from lab.ebpf.maps import Map
from lab.ebpf.spec import dtype_of
from lab.linux.grace_period import await_grace_period


def take(totals: Map, epochs: Map) -> Events:
    """Return the entries of the current epoch and delete them from the map `totals`; programs go on in the next epoch.

    One row for each entry, with the members of its key (without `epoch`) and of its value.
    """
    key, value = dtype_of(totals.spec.key), dtype_of(totals.spec.value)
    epoch = epochs.number()
    epochs.write(struct.pack("=I", epoch + 1))
    await_grace_period()
    key_bytes, value_bytes = totals.entries()
    keys, values = np.frombuffer(key_bytes, key), np.frombuffer(value_bytes, value)
    ended = keys["epoch"] == epoch
    # As bytes: a copy of rows need not keep the padding, which is a part of the key for the kernel.
    totals.delete(np.frombuffer(key_bytes, np.uint8).reshape(-1, key.itemsize)[ended].tobytes())
    parts = (keys[ended], values[ended])
    columns = {name: part[name] for part in parts for name in part.dtype.names or () if name != "epoch"}
    rows = np.zeros(ended.sum(), [(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column
    return rows
