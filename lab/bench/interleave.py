"""Interleaved measurements: subjects alternate within each repetition, so other load on the machine affects them alike.

What lives here: the order of the subjects, and ratios within a repetition. What does not: the measurements.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

Subject = TypeVar("Subject", bound=Hashable)
Result = TypeVar("Result")


def order(subjects: Sequence[Subject], repetitions: int) -> Iterator[Subject]:
    """Yield every subject once per repetition. Each repetition starts with the next subject."""
    for number in range(repetitions if subjects else 0):
        first = number % len(subjects)
        yield from (*subjects[first:], *subjects[:first])


def interleaved(
    subjects: Sequence[Subject], repetitions: int, measure: Callable[[Subject], Result]
) -> dict[Subject, list[Result]]:
    """Measure the subjects in interleaved order. Return each subject's results, indexed by repetition."""
    results: dict[Subject, list[Result]] = {subject: [] for subject in subjects}
    for subject in order(subjects, repetitions):
        results[subject].append(measure(subject))
    return results


def ratios(measured: Sequence[float], bare: Sequence[float]) -> list[float]:
    """Divide each measured value by the bare value of the same repetition."""
    return [value / reference for value, reference in zip(measured, bare, strict=True)]
