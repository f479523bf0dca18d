"""Parsing of the peers' output: short samples of each format, written by hand."""

import pytest

from lab.bench import tools
from lab.bench.peer_headers import with_offsets
from lab.bench.tools import FlowRow, LifeRow, RttRow, StateRow, bpftrace, capture, libbpf, reason

TCPSTATES = """\
SKADDR           PID     COMM       LADDR           LPORT RADDR           RPORT OLDSTATE    -> NEWSTATE    MS
ffff888195620940 12696   Web Conten 192.0.2.1       0     192.0.2.2       9999  CLOSE       -> SYN_SENT    0.000
ffff888195620940 12696   python3    2001:db8::1     40000 2001:db8::2     9999  SYN_SENT    -> ESTABLISHED 20.091
lost 495 events on CPU #1
ffff8881956"""


def test_tcpstates():
    """A process name with a space, and IPv6, are parsed. Other lines and incomplete ones are skipped."""
    assert list(libbpf.states(TCPSTATES)) == [
        StateRow("ffff888195620940", 12696, "192.0.2.1", 0, "192.0.2.2", 9999, "CLOSE", "SYN_SENT", 0),
        StateRow(
            "ffff888195620940", 12696, "2001:db8::1", 40000, "2001:db8::2", 9999, "SYN_SENT", "ESTABLISHED", 20_091_000
        ),
    ]


def test_tcplife():
    """The tables of libbpf-tools, with fractions of kilobytes, and of BCC are parsed."""
    output = """\
PID     COMM             LADDR           LPORT RADDR           RPORT TX_KB  RX_KB  MS
12824   my prog          192.0.2.1       59238 192.0.2.2       9999  1.47   1.47   208.14
12823 python3    2001:db8::2     9999  2001:db8::1     41254     1     1 1.62
"""
    assert list(libbpf.lives(output)) == [
        LifeRow("192.0.2.1", 59238, "192.0.2.2", 9999, 208_140_000),
        LifeRow("2001:db8::2", 9999, "2001:db8::1", 41254, 1_620_000),
    ]


def test_bpftrace_states_and_lives():
    """The states' numbers become names, and incomplete lines are skipped."""
    output = "ready\nffff888100000000 7 192.0.2.1 40000 192.0.2.2 80 2 1 20000123\nffff8881 7 192.0.2.1\n"
    assert list(bpftrace.states(output)) == [
        StateRow("ffff888100000000", 7, "192.0.2.1", 40000, "192.0.2.2", 80, "SYN_SENT", "ESTABLISHED", 20_000_123)
    ]
    assert list(bpftrace.lives("ready\n192.0.2.1 40000 192.0.2.2 80 5000\n")) == [
        LifeRow("192.0.2.1", 40000, "192.0.2.2", 80, 5000)
    ]


def test_bpftrace_histograms():
    """Buckets with units, buckets of one value, and both IP versions are parsed. The mean is exact."""
    output = """\
@all2[127, 0, 0, 6]: count 4, average 515, total 2060
@all10[32, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]: count 2, average 20000, total 40001

@rtt2[127, 0, 0, 6]:
[0]                    1 |@@@@@@@@@@@@@@@@@@@@@@@@@@|
[1]                    1 |@@@@@@@@@@@@@@@@@@@@@@@@@@|
[2, 4)                 0 |                          |
[512, 1K)              1 |@@@@@@@@@@@@@@@@@@@@@@@@@@|
[1K, 2K)               1 |@@@@@@@@@@@@@@@@@@@@@@@@@@|

@rtt10[32, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]:
[16K, 32K)             2 |@@@@@@@@@@@@@@@@@@@@@@@@@@|
"""
    four, six = bpftrace.round_trips(output)
    assert (four.key, four.number, four.mean_ns, four.slots) == ("127.0.0.6", 4, 515_000, {0: 2, 9: 1, 10: 1})
    assert (six.key, six.number, six.mean_ns, six.slots) == ("2001:db8::2", 2, 20_000_500, {14: 2})


@pytest.mark.parametrize("words", ["Remote Address = 192.0.2.2 [AVG 20145]", "Remote Addres = 192.0.2.2 [AVG 20145]"])
def test_tcprtt(words):
    """The histograms of libbpf-tools and of BCC are parsed, one per peer."""
    output = f"""\
Tracing TCP RTT... Hit Ctrl-C to end.

{words}
     usecs               : count    distribution
         0 -> 1          : 2        |****                                    |
         2 -> 3          : 0        |                                        |
     16384 -> 32767      : 20       |****************************************|
Remote Address = 2001:db8::2 [AVG 7]
     usecs               : count    distribution
         4 -> 7          : 1        |****************************************|
"""
    assert list(libbpf.round_trips(output)) == [
        RttRow("192.0.2.2", 22, 20_145_000, {0: 2, 14: 20}),
        RttRow("2001:db8::2", 1, 7000, {2: 1}),
    ]


def test_tcpdump():
    """Ports are split from addresses, the frames of a pair are added up, and ARP has its own protocol."""
    output = """\
12:00:00.1 02:00:00:00:00:c1 > 02:00:00:00:00:5e, IPv4, length 74: 192.0.2.1.40000 > 192.0.2.2.9999: tcp 0
12:00:00.2 02:00:00:00:00:c1 > 02:00:00:00:00:5e, IPv4, length 66: 192.0.2.1.40000 > 192.0.2.2.9999: tcp 8
12:00:00.3 02:00:00:00:00:c1 > 02:00:00:00:00:5e, IPv6, length 94: 2001:db8::1.40000 > 2001:db8::2.9999: tcp 0
12:00:00.4 02:00:00:00:00:c1 > ff:ff:ff:ff:ff:ff, ARP, length 60: Request who-has 192.0.2.77 tell 192.0.2.1, length 46
"""
    assert list(capture.packets(output)) == [
        FlowRow("IPv4", "192.0.2.1", "192.0.2.2", 2, 140, (40000, 9999)),
        FlowRow("IPv6", "2001:db8::1", "2001:db8::2", 1, 94, (40000, 9999)),
        FlowRow("ARP", "", "", 1, 60),
    ]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        (
            "802.1Q-QinQ, length 80: vlan 10, p 0, 802.1Q, vlan 20, p 0, IPv4, 192.0.2.1.20 > 192.0.2.2.80: UDP, length 3",
            FlowRow("IPv4", "192.0.2.1", "192.0.2.2", 1, 80, (20, 80)),
        ),
        (
            "IPv6, length 90: 2001:db8::6 > 2001:db8::1: HBH DSTOPT 20485 > 80: tcp 0",
            FlowRow("IPv6", "2001:db8::6", "2001:db8::1", 1, 90, (20485, 80)),
        ),
        (
            "IPv6, length 90: 2001:db8::7 > 2001:db8::1: frag (24|40)",
            FlowRow("IPv6", "2001:db8::7", "2001:db8::1", 1, 90),
        ),
        ("IPv4, length 74: 192.0.2.9 > 192.0.2.1: ip-proto-17", FlowRow("IPv4", "192.0.2.9", "192.0.2.1", 1, 74)),
    ],
)
def test_tcpdump_of_unusual_headers(text, row):
    """The protocol is that behind VLAN tags. Ports are found after extension headers, and fragments have none."""
    assert list(capture.packets(f"12:00:00.1 02:00:00:00:00:5e > 02:00:00:00:00:c1, {text}\n")) == [row]


def test_tshark():
    """A duration is from the first SYN to the first FIN or RST of either side, exact to the nanosecond."""
    rows = (
        "1700000000.000000001\t192.0.2.1\t\t40000\t192.0.2.2\t\t80\t1\t0\t0\t0",
        "1700000001.000000001\t192.0.2.1\t\t40000\t192.0.2.2\t\t80\t1\t0\t0\t0",
        "1700000001.500000003\t192.0.2.2\t\t80\t192.0.2.1\t\t40000\tFalse\tTrue\tTrue\tFalse",
        "1700000001.600000003\t192.0.2.1\t\t40000\t192.0.2.2\t\t80\t0\t1\t1\t0",
    )
    assert list(capture.lives("\n".join(rows))) == [LifeRow("192.0.2.1", 40000, "192.0.2.2", 80, 1_500_000_002)]
    (row,) = capture.round_trips("192.0.2.2\t\t0.020000000\n192.0.2.2\t\t\n192.0.2.2\t\t0.0400005\n")
    assert (row.key, row.number, row.mean_ns, row.slots) == ("192.0.2.2", 2, 30_000_250, {14: 1, 15: 1})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "libbpf: prog 'a': failed to create kprobe 'b' perf event: No such file\nfailed to attach BPF programs: -2\n",
            "libbpf: prog 'a': failed to create kprobe 'b' perf event: No such file",
        ),
        ("Traceback\n  File\nException: Failed to compile\n    ^~~~\n", "Exception: Failed to compile"),
        ("it just ended\n", "it just ended"),
        ("", ""),
    ],
)
def test_the_reason_of_a_refusal(text, why):
    """An error about the kernel is preferred to the errors that follow from it."""
    assert reason(text) == why


def test_the_names_of_the_tools_are_unique():
    """A name identifies the tool of a row."""
    names = [tool.name for tool in tools.every()]
    assert len(set(names)) == len(names) > 10


def test_a_struct_with_given_offsets():
    """Padding puts each member at its offset, in a union with the first declaration of the struct."""
    text = with_offsets("tcp_sock", {"u32 srtt_us": 1460}, "struct sock sk;")
    assert text == (
        "struct tcp_sock { union { struct sock sk; "
        "struct __attribute__((packed)) { char before_0[1460]; u32 srtt_us; }; }; };"
    )
