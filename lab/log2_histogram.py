"""Histograms by powers of two (bpf/include/log2_histogram.h): bounds of a bucket, quantiles, a picture as text.

Slot 0 holds 0 and 1, slot n holds 2^n to 2^(n+1) - 1. What does not live here: the meaning of the counted values.
"""

from collections.abc import Iterator, Sequence

SLOTS = 32  # LOG2_SLOTS in bpf/include/log2_histogram.h: enough for any value of 32 bits
STARS = 40  # characters of the longest bar


def bounds(slot: int) -> tuple[int, int]:
    """Return the smallest and the largest value of a slot: 0 and 1, 2 and 3, 4 and 7, ..."""
    return (1 << slot) & ~1, (2 << slot) - 1


def slot_of(value: int) -> int:
    """Return the slot of a value, like log2_slot() in bpf/include/log2_histogram.h."""
    return max(1, value).bit_length() - 1


def quantile_slot(counts: Sequence[int], share: float) -> int:
    """Return the slot of a quantile: of n sorted values, the one at rank `share` times n, rounded up.

    Raises `ValueError` if the histogram is empty.
    """
    total = sum(counts)
    if not total:
        raise ValueError("an empty histogram has no quantile")
    rank = max(1, -int(-share * total // 1))
    seen = 0
    for slot, count in enumerate(counts):
        seen += count
        if seen >= rank:
            return slot
    raise AssertionError("the rank is at most the total")


def picture(counts: Sequence[int], unit: str, *, whole: bool = True) -> Iterator[str]:
    """Yield the lines of a histogram, up to the last slot with a value; no line for an empty histogram.

    Unless `whole`, they begin with the first slot that has a value.
    """
    last = max((slot for slot, count in enumerate(counts) if count), default=-1)
    if last < 0:
        return
    longest = max(counts)
    yield f"     {unit:<19} : count     distribution"
    first = 0 if whole else next(slot for slot, count in enumerate(counts) if count)
    for slot, count in enumerate(counts[first : last + 1], first):
        low, high = bounds(slot)
        bar = "*" * (count * STARS // longest)
        yield f"{low:>10} -> {high:<10} : {count:<8} |{bar:<{STARS}}|"
