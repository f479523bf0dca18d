"""Mutants of the probe `drops`: the judge, or the scenario that makes the cause, has to catch each of them."""

import pytest
from support.mutants import caught, changed

from lab import probes
from lab.observation import observe
from lab.traffic.demo.conversation import Conversation


@pytest.fixture
def judged(lab, tmp_path):
    """Return a function that changes the probe's source, tries a closed port, and returns the quantities that fail."""

    def judge(*changes):
        programs = {"drops": changed(tmp_path, "drops", *changes)}
        with observe(lab.net, Conversation(), programs=programs, serve=False) as observed:
            pass
        return caught(probes.judge("drops", observed, lab.scenario))

    return judge


def test_unchanged(judged):
    """Without changes every check passes."""
    assert judged() == set()


@pytest.mark.parametrize(
    "change",
    [
        (r"found.reason = reason;", "found.reason = reason + 1;"),
        (r"found.dport = bpf_ntohs", "found.dport = "),
        (r"\[13\];", "[12];"),
        (r"found.netns = netns_of_drop\(skb, sk\);", "found.netns = 1;"),
        (
            r"map_ipv4\(\(struct address \*\)found->daddr, ip.daddr\)",
            "map_ipv4((struct address *)found->daddr, ip.saddr)",
        ),
        (r"!find_segment\(&found, skb, &segment\)", "true"),
    ],
)
def test_wrong(judged, change):
    """A wrong reason, port, flags, namespace or address, or no row: the SYN to a closed port is missed."""
    assert "SYNs without a socket" in judged(change)
