"""Scripts: the segments of a connection as one line of words."""

import pytest

from lab.packet import ACK, FIN, RST, SYN
from lab.traffic.crafted.script import Segment, gap_ns_of, segments
from lab.units import MS

C, S = True, False


def test_a_complete_script():
    """Numbers count from the sender's SYN and acknowledge the peer's. A time is the gap before the next segment."""
    assert segments("cS sSA cA 20ms cF 1ms 2ms sF cRA", isns=(100, 200)) == [
        Segment(C, SYN, 100, 0),
        Segment(S, SYN | ACK, 200, 101),
        Segment(C, ACK, 108, 208),
        Segment(C, FIN | ACK, 108, 208, gap_ns=20 * MS),
        Segment(S, FIN | ACK, 208, 108, gap_ns=3 * MS),
        Segment(C, RST | ACK, 108, 208),
    ]


def test_marks():
    """Marks for a refusal, a cookie, an old number and data with the SYN; numbers wrap."""
    assert segments("sRA0", isns=(100, 200)) == [Segment(S, RST | ACK, 0, 101)]
    assert segments("sSA'", isns=(100, 200)) == [Segment(S, SYN | ACK, 277, 101)]
    assert segments("cR-", isns=(100, 200)) == [Segment(C, RST, 0, 0)]
    assert segments("cR1", isns=(100, 200)) == [Segment(C, RST, 101, 0)]
    assert segments("cS+ sSA+", isns=(2**32 - 1, 200)) == [
        Segment(C, SYN, 2**32 - 1, 0, payload=7),
        Segment(S, SYN | ACK, 200, 7),
    ]


@pytest.mark.parametrize("script", ["cX", "S", "cs", "20", "3 parsecs", "accept()"])
def test_unknown_words(script):
    """An unknown word is an error."""
    with pytest.raises(ValueError, match="is not a "):
        segments(script)


def test_times():
    """Only a word that begins with a digit is a time."""
    assert (gap_ns_of("5ms"), gap_ns_of("cS")) == (5 * MS, 0)
