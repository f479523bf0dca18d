"""What programs add up in the kernel: reading sums that grow all the while, exactly."""

import struct

import numpy as np

from lab.arrays import Events
from lab.ebpf.maps import Map
from lab.ebpf.spec import dtype_of
from lab.linux.grace_period import await_grace_period


def take(totals: Map, epochs: Map) -> Events:
    """Empty the map `totals`, one row for each entry: the members of its key (without the epoch) and of its value.

    A new epoch begins for the program (`bpf/include/epochs.h`), and the old one is read when nothing can still be adding to it.
    """
    key, value = dtype_of(totals.spec.key), dtype_of(totals.spec.value)
    epoch = epochs.number()
    epochs.write(struct.pack("=I", epoch + 1))
    await_grace_period()
    keys, values = totals.entries()
    rows = np.frombuffer(keys, key)
    over = rows["epoch"] == epoch
    totals.delete(np.frombuffer(keys, np.uint8).reshape(-1, key.itemsize)[over].tobytes())
    parts = (rows[over], np.frombuffer(values, value)[over])
    columns = {name: part[name] for part in parts for name in part.dtype.names or () if name != "epoch"}
    taken = np.zeros(over.sum(), [(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        taken[name] = column
    return taken
