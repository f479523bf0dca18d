"""A and B in turns: whatever else the machine does changes from one repetition to the next, and does so for all of them.

What lives here: the order of turns, and ratios within a repetition. What does not: what is measured.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

Subject = TypeVar("Subject", bound=Hashable)
Result = TypeVar("Result")


def order(subjects: Sequence[Subject], repetitions: int) -> Iterator[Subject]:
    """Yield every subject once a repetition; each repetition begins with another one, so that none always follows the same load."""
    for number in range(repetitions):
        first = number % len(subjects)
        yield from (*subjects[first:], *subjects[:first])


def interleaved(
    subjects: Sequence[Subject], repetitions: int, measure: Callable[[Subject], Result]
) -> dict[Subject, list[Result]]:
    """Measure every subject so many times, in turns; the results stand at the numbers of their repetitions."""
    results: dict[Subject, list[Result]] = {subject: [] for subject in subjects}
    for subject in order(subjects, repetitions):
        results[subject].append(measure(subject))
    return results


def ratios(measured: Sequence[float], bare: Sequence[float]) -> list[float]:
    """Divide each value by the one without, of the same repetition."""
    return [with_ / without for with_, without in zip(measured, bare, strict=True)]
