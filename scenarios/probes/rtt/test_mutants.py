"""RTT probes that are wrong on purpose: each must be caught by the judge; R3's is in test_rtt_totals.py."""

import pytest
from support.lockstep import conversing
from support.mutants import caught, changed
from support.token_bucket import throttle

from lab import probes
from lab.observation import observing


@pytest.fixture
def judged(lab, tmp_path):
    """Change the probe's source, let it watch requests that wait 44 ms in the client's queue, and return the verdicts on it."""

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
def test_the_right_probe_passes(judged, version):
    """With nothing changed there is no wrong verdict: what is caught below is caught for its own sake."""
    assert judged(version=version) == set()


def test_srtt_not_divided_by_8(judged):
    """The kernel keeps 8 times the average."""
    assert "largest srtt" in judged((r"add\(&key, SRTT, now.srtt_us >> 3\)", "add(&key, SRTT, now.srtt_us)"))


@pytest.mark.parametrize(("version", "caught"), [(4, False), (6, True)])
def test_all_ipv6_peers_in_one_key(judged, version, caught):
    """R1: only IPv4 addresses reach the key."""
    only_ipv4 = r"if (is_ipv4(&ends->raddr))\n        \g<0>"
    wrong = judged((r"__builtin_memcpy\(key->raddr.*\);", only_ipv4), version=version)
    assert ("RTT samples" in wrong) is caught


def test_local_and_remote_swapped(judged):
    """Each address is the other side's."""
    swapped = (r"memcpy\(key->laddr, &ends->laddr", "memcpy(key->laddr, &ends->raddr")
    assert "RTT samples" in judged(swapped, (r"memcpy\(key->raddr, &ends->raddr", "memcpy(key->raddr, &ends->laddr"))


def test_without_the_handshake(judged):
    """R5: the first sample of all is left out."""
    assert "RTT samples" in judged((r"^    if \(now.srtt_us\) .*$", "    if (false)"))


def test_without_the_last_sample(judged):
    """R5: the sample that comes with the FIN is left out, since no segment follows in ESTABLISHED."""
    assert "RTT samples" in judged(
        (
            r"^        add_sample\(&key, before, &now\);\n        under_way_sockets.delete",
            "        under_way_sockets.delete",
        )
    )


def test_every_other_segment_missing(judged):
    """What one of two segments has brought is taken for the sample of the next: the deviation does not fit."""
    drop = r"\g<0>    int only = 0;\n    u64 *count = seen.lookup(&only);\n"
    drop += "    if (count && ++*count % 2 == 0)\n        return 0;\n"
    wrong = judged(
        (r"^BPF_ARRAY\(nothing.*$", r"\g<0>\nBPF_PERCPU_ARRAY(seen, u64, 1);"),
        (r"^static inline int segment\(.*\)\n\{\n", drop),
    )
    assert "RTT samples" in wrong or "unclear RTT samples" in wrong


def test_buckets_off_by_one(judged):
    """R4: each value is in the bucket above its own."""
    wrong = judged((r"log2_slot\(rtt_us", "log2_slot(2 * rtt_us"))
    assert wrong == {"srtt histogram", "RTT histogram"}


def test_samples_in_milliseconds(judged):
    """A sample in another unit is longer than the request took, or its sum is."""
    assert "largest RTT sample" in judged((r"add\(key, RTT, rtt_us\)", "add(key, RTT, rtt_us * 1000)"))
