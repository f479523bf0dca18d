"""Mutants of the probe `retransmits`: the judge has to catch each of them."""

import pytest
from support.mutants import caught, changed

from lab import probes
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.observation import observe
from lab.traffic.demo.conversation import Conversation


@pytest.fixture(scope="module")
def net():
    """Two hosts and a wire that loses segments of each kind."""
    with topology(Relay()) as net:
        yield net


@pytest.fixture
def judged(lab, tmp_path):
    """Return a function that changes the probe's source, loses segments, and returns the quantities that fail."""

    def judge(*changes, to_server=(1, 4), to_client=()):
        lab.net.conditions(Conditions(drop=to_server), Conditions(drop=to_client))
        programs = {"retransmits": changed(tmp_path, "retransmits", *changes)}
        with observe(lab.net, Conversation(), programs=programs) as observed:
            pass
        return caught(probes.judge("retransmits", observed, lab.scenario))

    return judge


def test_unchanged(judged):
    """Without changes every check passes."""
    assert judged() == set()


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (
            (r"&event->seq, skb, FIELD\(tcp_skb_cb, seq\)", "&event->seq, skb, FIELD(tcp_skb_cb, end_seq)"),
            "bytes sent again",
        ),
        ((r"event->length = end - event->seq;", "event->length = end - event->seq + 1;"), "bytes sent again"),
        ((r"event->segments = segments;", "event->segments = 2 * segments;"), "segments sent again"),
        ((r"event->flags = flags;", "event->flags = 0;"), "SYN sent again"),
        ((r"event->time_ns = time_ns;", "event->time_ns = time_ns - 1000000;"), "segment sent again at"),
        ((r"event->lport = ends->lport;", "event->lport = ends->rport;"), "segments sent again"),
    ],
)
def test_wrong(judged, change, wrong):
    """Each field."""
    assert wrong in judged(change)


def test_without_syn_acks(judged):
    """T4: SYN-ACKs have a tracepoint of their own."""
    change = (r"events.ringbuf_submit\(event, BPF_RB_NO_WAKEUP\);\n    return 0;\n}\n\nON_TP_BTF\(tcp_retransmit_skb\)",
              r"events.ringbuf_discard(event, BPF_RB_NO_WAKEUP);\n    return 0;\n}\n\nON_TP_BTF(tcp_retransmit_skb)")  # fmt: skip
    assert "segments sent again" in judged(change, to_server=(), to_client=(1,))


def test_calls_for_segments(judged):
    """T3: a call is not a segment. Here each is of one, so that the mutant of no call counts as one of none."""
    assert "segments sent again" in judged((r"event->segments = segments;", ""))
