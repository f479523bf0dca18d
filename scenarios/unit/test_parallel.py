"""The same work on several items at a time."""

import threading

import pytest

from lab import parallel

pytestmark = pytest.mark.rootless


def test_results_are_in_the_order_of_the_items():
    """Whichever thread took an item."""
    assert parallel.each(lambda number: number * number, range(50)) == [number * number for number in range(50)]
    assert parallel.each(str, []) == []


def test_an_error_is_raised():
    """No thread is left then."""
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        parallel.each(lambda number: 1 // (number - 3), range(1000))
    assert threading.active_count() == before


def test_without_another_thread(monkeypatch):
    """The work is done all the same."""

    def fail(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert parallel.each(str, range(5)) == ["0", "1", "2", "3", "4"]
