"""Bounds of RTT samples, from hand-made timelines."""

from support.made.timelines import END, FLOW, REPLY, REQUEST, connection

from lab.timeline import Call, Connection, Timeline
from lab.truth.rtt import Sent, samples, sent_by_client, sent_by_server


def test_request_and_reply():
    """The reply acknowledges the request, the client's FIN the reply; each handshake gives a sample, too."""
    both = connection(REQUEST, REPLY)
    assert sent_by_client(both, END) == [Sent(100, 1, certain=True), Sent(200, 1, certain=True)]
    assert sent_by_server(both, END) == [Sent(130, 1, certain=True), Sent(300, 1, certain=True)]


def test_bounds_of_all_samples():
    """Every sample is between the wire's round trip and the longest wait. The smallest is at most the shortest wait."""
    truth = samples([Sent(100, 1, certain=True), Sent(200, 1, certain=True)], least_ns=40)
    assert truth.number[:2] == (2, 2)
    assert truth.smallest[:2] == (40, 100)
    assert truth.largest[:2] == (40, 200)
    assert truth.total[:2] == (80, 300)


def test_uncertain_samples_have_no_sum():
    """If the number of samples is unknown, their sum is unknown."""
    truth = samples([Sent(100, 1, certain=True), Sent(200, 3, certain=False)])
    assert truth.number[:2] == (1, 4)
    assert truth.total is None
    assert truth.smallest.high == 100


def test_the_active_closer_may_miss_the_last_acknowledgement():
    """A server that closes after its reply may get the acknowledgement in FIN_WAIT1, so the sample is not certain."""
    both = connection(
        [Call("send", 200, 210, 300), Call("recv", 220, 400, 300), Call("recv", 410, 450, 0), Call("close", 500, 510)],
        [Call("recv", 140, 250, 300), Call("send", 300, 320, 300), Call("close", 330, 340)],
    )
    assert [sent.certain for sent in sent_by_client(both, END)] == [True, True]
    assert sent_by_server(both, END)[1] == Sent(END - 300, 1, certain=False)


def test_messages_in_flight_together():
    """Two messages can be acknowledged together, with one sample for both."""
    both = connection(
        [Call("send", 200, 210, 10), Call("send", 220, 230, 10), Call("recv", 240, 400, 5), Call("close", 500, 510)],
        [Call("recv", 140, 250, 20), Call("send", 300, 320, 5), Call("recv", 330, 600, 0), Call("close", 700, 710)],
    )
    assert sent_by_client(both, END)[1:] == [Sent(200, 1, certain=True), Sent(180, 1, certain=False)]


def test_a_reply_to_half_a_message():
    """Data that the peer wrote before it had read the whole message does not acknowledge the rest."""
    both = connection(
        [Call("send", 200, 210, 20), Call("recv", 220, 300, 5), Call("recv", 310, 400, 5), Call("close", 500, 510)],
        [
            *(Call("recv", 140, 250, 10), Call("send", 260, 270, 5), Call("recv", 280, 290, 10)),
            *(Call("send", 320, 330, 5), Call("recv", 340, 600, 0), Call("close", 700, 710)),
        ],
    )
    assert sent_by_client(both, END)[1] == Sent(200, 1, certain=True)


def test_a_reset_acknowledges_nothing():
    """A message that is answered by a RST has no certain sample."""
    both = connection(
        [Call("send", 200, 210, 300), Call("recv", 220, 400, 0, "ECONNRESET"), Call("close", 500, 510)],
        [Call("linger0", 140, 150), Call("close", 160, 300)],
    )
    assert [sent.certain for sent in sent_by_client(both, END)] == [True, False]


def test_large_messages_have_many_segments():
    """There are at most as many samples as segments of the smallest size."""
    both = connection([Call("send", 200, 210, 5000), *REQUEST[1:]], [Call("recv", 140, 250, 5000), *REPLY[1:]])
    assert sent_by_client(both, END)[1] == Sent(200, 10, certain=True)


def test_a_handshake_that_may_have_been_retransmitted():
    """A SYN is retransmitted after a second, and it is unknown which one was answered."""
    slow = Connection(
        Timeline("client", FLOW, calls=[Call("connect", 0, 2_000_000_000)]),
        Timeline("server", FLOW.reversed(), calls=[Call("accept", 0, 2_000_000_100)]),
    )
    assert [sent.certain for sent in sent_by_client(slow, 1 << 40) + sent_by_server(slow, 1 << 40)] == [False, False]


def test_refused():
    """A refused connection has no samples."""
    refused = Connection(Timeline("client", FLOW, calls=[Call("connect", 0, 100, 0, "ECONNREFUSED")]), None)
    assert sent_by_client(refused, END) == sent_by_server(refused, END) == []
