"""The event store keeps one copy of each event and returns the events sorted by time."""

import multiprocessing
import os

import numpy as np
import pytest

from lab.linux import process
from lab.recording import event_store
from lab.recording.event_store import Store, put_in_order

EVENT = np.dtype([("number", "u4"), ("time_ns", "u8"), ("rest", "V60")], align=True)


def events(times_ns: np.ndarray) -> np.ndarray:
    """Return events with these times, numbered in order."""
    made = np.zeros(len(times_ns), EVENT)
    made["number"], made["time_ns"] = np.arange(len(times_ns)), times_ns
    return made


@pytest.mark.parametrize("late", [0, 1, 40, 100_000])
@pytest.mark.parametrize("number", [0, 1, 100, 3000])
def test_sorting_in_place_is_stable(monkeypatch, number, late):
    """The result equals one stable sort of all events, however late some events are."""
    monkeypatch.setattr(event_store, "_BLOCK", 256)
    came = events(np.arange(number) // 3 + np.random.default_rng(number).integers(0, late + 1, number))
    expected = came[np.argsort(came["time_ns"], kind="stable")]
    put_in_order(came)
    assert (came == expected).all()


def test_every_event_comes_out_once():
    """After many batches and several resizes no event is missing or duplicated."""
    kept, came = Store(EVENT), events(np.arange(60_000)[::-1])
    for batch in np.array_split(came, 700):
        kept.add(batch)
    found = kept.in_order()
    assert found.dtype == EVENT
    assert (found == came[::-1]).all()


def test_an_empty_store_has_no_events():
    """The empty array has the dtype of an event."""
    nothing = Store(EVENT).in_order()
    assert (len(nothing), nothing.dtype) == (0, EVENT)


def test_memory_is_little_more_than_the_events():
    """Storing and sorting take less than 1.3 times the memory of the events."""
    with multiprocessing.get_context("fork").Pool(1) as apart:
        took, size = apart.apply(peak_memory)
    assert size < took < 1.3 * size


def peak_memory() -> tuple[int, int]:
    """Store and sort events, and return the process's additional peak memory and the size of the events, in bytes."""
    batch = events(np.random.default_rng(0).integers(0, 1 << 40, 1000))
    process.forget_peak(os.getpid())
    before = process.memory(os.getpid())
    kept = Store(EVENT)
    for _ in range(500):
        batch["time_ns"] += 1 << 40
        kept.add(batch)
    found = kept.in_order()
    return process.memory(os.getpid(), "VmHWM") - before, found.nbytes
