"""A recording's events are kept once, and come out in order of time."""

import multiprocessing
import os

import numpy as np
import pytest

from lab.bench import process
from lab.ebpf import event_store
from lab.ebpf.event_store import Store, put_in_order

EVENT = np.dtype([("number", "u4"), ("time_ns", "u8"), ("rest", "V60")], align=True)


def events(times_ns: np.ndarray) -> np.ndarray:
    """Make events with these times, numbered as they came."""
    made = np.zeros(len(times_ns), EVENT)
    made["number"], made["time_ns"] = np.arange(len(times_ns)), times_ns
    return made


@pytest.mark.parametrize("late", [0, 1, 40, 100_000])
@pytest.mark.parametrize("number", [0, 1, 100, 3000])
def test_they_are_sorted_where_they_are(monkeypatch, number, late):
    """However late some come, and those of one nanosecond as they came: as all at once would be sorted."""
    monkeypatch.setattr(event_store, "_BLOCK", 256)
    came = events(np.arange(number) // 3 + np.random.default_rng(number).integers(0, late + 1, number))
    expected = came[np.argsort(came["time_ns"], kind="stable")]
    put_in_order(came)
    assert (came == expected).all()


def test_what_is_kept_comes_out():
    """Of many batches, more than there was room for at first, none is missing or there twice."""
    kept, came = Store(EVENT), events(np.arange(60_000)[::-1])
    for batch in np.array_split(came, 700):
        kept.add(batch)
    found = kept.in_order()
    assert found.dtype == EVENT
    assert (found == came[::-1]).all()


def test_nothing_kept_is_nothing():
    """In the type of an event."""
    nothing = Store(EVENT).in_order()
    assert (len(nothing), nothing.dtype) == (0, EVENT)


def test_nothing_is_there_twice():
    """Keeping events and putting them in order takes little more memory than the events themselves."""
    with multiprocessing.get_context("fork").Pool(1) as apart:
        took, size = apart.apply(most_memory)
    assert size < took < 1.3 * size


def most_memory() -> tuple[int, int]:
    """Keep events in a process of its own; returns the memory that it took at most, beyond what it had, and the events' bytes."""
    batch = events(np.random.default_rng(0).integers(0, 1 << 40, 1000))
    process.forget_peak(os.getpid())
    before = process.memory(os.getpid())
    kept = Store(EVENT)
    for _ in range(500):
        batch["time_ns"] += 1 << 40
        kept.add(batch)
    found = kept.in_order()
    return process.memory(os.getpid(), "VmHWM") - before, found.nbytes
