"""Mutants of the probe `rtt`: the judge has to catch each of them. The mutant of R3 is in test_totals.py."""

import pytest
from support.injected_delays import throttle
from support.lockstep import conversing
from support.mutants import caught, changed

from lab import probes
from lab.observation import observing


@pytest.fixture
def judged(lab, tmp_path):
    """Return a function that changes the probe's source, records requests and returns the failed quantities.

    Each request waits 44 ms in the client's qdisc.
    """

    def judge(*changes, version=4):
        programs = {"rtt": changed(tmp_path, "rtt", *changes)}
        with observing(lab.net, programs=programs) as observed, conversing(lab.net, version) as talk:
            throttle(lab.net.client, rate=10_000, burst=500)
            for _ in range(6):
                talk.exchange(375)
        observed.connections += talk.connections
        return caught(probes.judge("rtt", observed, lab.scenario))

    return judge


@pytest.mark.parametrize("version", [4, 6])
def test_unchanged_probe_passes(judged, version):
    """Without changes every check passes, so the failures below are caused by the changes."""
    assert judged(version=version) == set()


def test_srtt_not_divided_by_8(judged):
    """The kernel stores srtt times 8; the mutant reports that value."""
    assert "largest srtt" in judged((r"add\(&key, SRTT, now.srtt_us >> 3\)", "add(&key, SRTT, now.srtt_us)"))


@pytest.mark.parametrize(("version", "caught"), [(4, False), (6, True)])
def test_all_ipv6_peers_in_one_key(judged, version, caught):
    """R1: only IPv4 addresses are copied to the key."""
    only_ipv4 = r"if (is_ipv4(&ends->raddr))\n        \g<0>"
    wrong = judged((r"__builtin_memcpy\(key->raddr.*\);", only_ipv4), version=version)
    assert ("RTT samples" in wrong) is caught


def test_local_and_remote_swapped(judged):
    """Local and remote address are swapped."""
    swapped = (r"memcpy\(key->laddr, &ends->laddr", "memcpy(key->laddr, &ends->raddr")
    assert "RTT samples" in judged(swapped, (r"memcpy\(key->raddr, &ends->raddr", "memcpy(key->raddr, &ends->laddr"))


def test_without_the_handshake(judged):
    """R5: the first sample, that of the handshake, is not counted."""
    assert "RTT samples" in judged((r"^    if \(now.srtt_us\) .*$", "    if (false) {"))


def test_without_the_last_sample(judged):
    """R5: the sample of the last acknowledgement is not counted, because no segment follows it in ESTABLISHED."""
    assert "RTT samples" in judged(
        (
            r"^        add_sample\(&key, before, &now\);\n        under_way_sockets.delete",
            "        under_way_sockets.delete",
        )
    )


def test_every_other_segment_missing(judged):
    """Every second segment is skipped: a change by two samples is unclear, because the deviation does not fit."""
    drop = r"\g<0>    int only = 0;\n    u64 *count = seen.lookup(&only);\n"
    drop += "    if (count && ++*count % 2 == 0)\n        return 0;\n"
    wrong = judged(
        (r"^BPF_ARRAY\(nothing.*$", r"\g<0>\nBPF_PERCPU_ARRAY(seen, u64, 1);"),
        (r"^static inline int segment\(.*\)\n\{\n", drop),
    )
    assert "RTT samples" in wrong or "unclear RTT samples" in wrong


def test_buckets_off_by_one(judged):
    """R4: each value is counted in the bucket above its own."""
    wrong = judged((r"log2_slot\(rtt_us", "log2_slot(2 * rtt_us"))
    assert wrong == {"srtt histogram", "RTT histogram"}


def test_samples_in_milliseconds(judged):
    """Samples are multiplied by 1000: they are longer than the request took."""
    assert "largest RTT sample" in judged((r"add\(key, RTT, rtt_us\)", "add(key, RTT, rtt_us * 1000)"))
