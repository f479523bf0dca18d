"""Reading of tools' output by the descriptions that come with the lab: short samples of each format, written by hand."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import LabError
from lab.judging import description, reading
from lab.judging.description import Description, Output
from lab.judging.peer_headers import with_offsets
from lab.judging.quantity import Quantity
from lab.judging.running import reason
from lab.units import NS_OF_UNIT

TCPSTATES = """\
SKADDR           PID     COMM       LADDR           LPORT RADDR           RPORT OLDSTATE    -> NEWSTATE    MS
ffff888195620940 12696   Web Conten 192.0.2.1       0     192.0.2.2       9999  CLOSE       -> SYN_SENT    0.000
ffff888195620940 12696   python3    2001:db8::1     40000 2001:db8::2     9999  SYN_SENT    -> ESTABLISHED 20.091
lost 495 events on CPU #1
ffff8881956"""
FLOW = ("source", "sport", "destination", "dport", "bytes")


def rows(name, output, number=0, stderr=""):
    """Return the rows that a tool of the lab told, without the raw lines."""
    (tool,) = description.named([name])
    return [row.fields for row in reading.told(tool, tool.quantities[number], output, stderr).rows]


@pytest.mark.parametrize("name", ["libbpf-tcpstates", "bcc-tcpstates"])
def test_tcpstates(name):
    """A process name with a space, and IPv6, are read. Other lines and incomplete ones are skipped."""
    one, other = rows(name, TCPSTATES)
    ends = {"laddr": "192.0.2.1", "lport": 0, "raddr": "192.0.2.2", "rport": 9999}
    assert one == {
        "socket": "ffff888195620940", "pid": 12696, "oldstate": "CLOSE", "newstate": "SYN_SENT", "value": 0, **ends
    }  # fmt: skip
    assert (other["laddr"], other["newstate"], other["value"]) == ("2001:db8::1", "ESTABLISHED", 20_091_000)


@pytest.mark.parametrize("name", ["libbpf-tcplife", "bcc-tcplife"])
def test_tcplife(name):
    """The tables of libbpf-tools, with fractions of kilobytes, and of BCC are read."""
    output = """\
PID     COMM             LADDR           LPORT RADDR           RPORT TX_KB  RX_KB  MS
12824   my prog          192.0.2.1       59238 192.0.2.2       9999  1.47   1.47   208.14
12823 python3    2001:db8::2     9999  2001:db8::1     41254     1     1 1.62
"""
    assert [tuple(row.values()) for row in rows(name, output)] == [
        ("192.0.2.1", 59238, "192.0.2.2", 9999, 208_140_000),
        ("2001:db8::2", 9999, "2001:db8::1", 41254, 1_620_000),
    ]


def test_bpftrace_states_and_durations():
    """The states' numbers become names, and incomplete lines are skipped."""
    output = "ready\nffff888100000000 7 192.0.2.1 40000 192.0.2.2 80 2 1 20000123\nffff8881 7 192.0.2.1\n"
    (row,) = rows("bpftrace-states", output)
    assert (row["oldstate"], row["newstate"], row["value"], row["pid"]) == ("SYN_SENT", "ESTABLISHED", 20_000_123, 7)
    (row,) = rows("bpftrace-duration", "ready\n192.0.2.1 40000 192.0.2.2 80 5000\n")
    assert row == {"laddr": "192.0.2.1", "lport": 40000, "raddr": "192.0.2.2", "rport": 80, "value": 5000}


def test_bpftrace_histograms():
    """Buckets with units, buckets of one value, and octets as the key of a map are read."""
    output = """\
@all2[127, 0, 0, 6]: count 4, average 515, total 2060

@rtt2[127, 0, 0, 6]:
[0]                    1 |@@@@@@@@@@@@@@@@@@@@@@@@@@|
[2, 4)                 0 |                          |
[1K, 2K)               1 |@@@@@@@@@@@@@@@@@@@@@@@@@@|
"""
    all_of_it, *buckets = rows("bpftrace-rtt", output)
    assert all_of_it == {"raddr": "127.0.0.6", "number": 4, "sum": 2_060_000}
    assert buckets == [{"raddr": "127.0.0.6", "low": low, "count": count} for low, count in ((0, 1), (2, 0), (1024, 1))]


@pytest.mark.parametrize("name", ["libbpf-tcprtt", "bcc-tcprtt"])
@pytest.mark.parametrize("words", ["Remote Address = 192.0.2.2 [AVG 20145]", "Remote Addres = 192.0.2.2 [AVG 20145]"])
def test_tcprtt(name, words):
    """The groups of a heading hold for the rows below it."""
    output = f"""\
Tracing TCP RTT... Hit Ctrl-C to end.

{words}
     usecs               : count    distribution
         0 -> 1          : 2        |****                                    |
     16384 -> 32767      : 20       |****************************************|
Remote Address = 2001:db8::2 [AVG 7]
     usecs               : count    distribution
         4 -> 7          : 1        |****************************************|
"""
    first = {"raddr": "192.0.2.2", "mean": 20_145_000}
    assert rows(name, output) == [
        first | {"low": 0, "count": 2},
        first | {"low": 16384, "count": 20},
        {"raddr": "2001:db8::2", "mean": 7000, "low": 4, "count": 1},
    ]


@pytest.mark.parametrize(
    ("text", "protocol", "flow"),
    [
        ("IPv4, length 74: 192.0.2.1.40000 > 192.0.2.2.9999: tcp 0", "IPv4", ("192.0.2.1", 40000, "192.0.2.2", 9999, 74)),
        (
            "IPv6, length 94: 2001:db8::1.40000 > 2001:db8::2.9999: tcp 0",
            "IPv6",
            ("2001:db8::1", 40000, "2001:db8::2", 9999, 94),
        ),
        ("ARP, length 60: Request who-has 192.0.2.77 tell 192.0.2.1, length 46", "ARP", (None, None, None, None, 60)),
        (
            "802.1Q-QinQ, length 80: vlan 10, p 0, 802.1Q, vlan 20, p 0, IPv4, 192.0.2.1.20 > 192.0.2.2.80: UDP, length 3",
            "IPv4",
            ("192.0.2.1", 20, "192.0.2.2", 80, 80),
        ),
        (
            "IPv6, length 90: 2001:db8::6 > 2001:db8::1: HBH DSTOPT 20485 > 80: tcp 0",
            "IPv6",
            ("2001:db8::6", 20485, "2001:db8::1", 80, 90),
        ),
        ("IPv6, length 90: 2001:db8::7 > 2001:db8::1: frag (24|40)", "IPv6", ("2001:db8::7", None, "2001:db8::1", None, 90)),
        ("IPv4, length 74: 192.0.2.9 > 192.0.2.1: ip-proto-17", "IPv4", ("192.0.2.9", None, "192.0.2.1", None, 74)),
    ],
)  # fmt: skip
def test_tcpdump(text, protocol, flow):
    """Ports are split from addresses, the protocol is that behind VLAN tags, ports are found after extension headers."""
    (row,) = rows("tcpdump", f"12:00:00.1 02:00:00:00:00:c1 > 02:00:00:00:00:5e, {text}\n")
    assert (row["protocol"], tuple(row.get(name) for name in FLOW)) == (protocol, flow)


def test_tshark():
    """IPv4 and IPv6 are in columns of their own, and times are exact to the nanosecond."""
    (row,) = rows("tshark-duration", "\t2001:db8::2\t80\t\t2001:db8::1\t40000\t1.500000002\n")
    assert (row["laddr"], row["rport"], row["value"]) == ("2001:db8::2", 40000, 1_500_000_002)
    assert [row["value"] for row in rows("tshark-rtt", "192.0.2.2\t\t0.020000000\n192.0.2.2\t\t\n")] == [20_000_000]


def tool(output, quantity=None, **options):
    return Description("a tool", ["true"], [quantity or Quantity("flows")], output=output, **options)


def test_json():
    """Objects within objects and lists have fields with a point, `where` chooses objects, and null is unknown."""
    quantity = Quantity("flows", where={"type": "flow"}, fields={"source": "from.0", "bytes": "size.ip"}, unit="KiB")
    printed = (
        '{"type": "flow", "from": ["::ffff:192.0.2.1"], "size": {"ip": 2}, "sport": null}\n{"type": "x"}\nno JSON}\n'
    )
    (row,) = reading.told(tool(Output()), quantity, printed, "").rows
    assert row.fields == {"type": "flow", "source": "192.0.2.1", "bytes": 2048, "sport": None}


def test_csv():
    """The first line names the columns, or the description does."""
    assert [row for row, _ in reading.records(tool(Output("csv")), "a,b\n1,2\n")] == [{"a": "1", "b": "2"}]
    named = tool(Output("csv", columns=["a", "b"], separator="\t"))
    assert [row for row, _ in reading.records(named, "1\t2\n3\n")] == [{"a": "1", "b": "2"}]


def test_openmetrics():
    """Each sample is a record with its labels; comments are none."""
    text = '# TYPE rtt histogram\nrtt_bucket{peer="192.0.2.2",le="0.1"} 3\nup 1.0 1700000000\n'
    assert [row for row, _ in reading.records(tool(Output("openmetrics")), text)] == [
        {"metric": "rtt_bucket", "peer": "192.0.2.2", "le": "0.1", "value": "3"},
        {"metric": "up", "value": "1.0"},
    ]


def test_other_traffic_is_not_kept():
    """A tool of the whole machine prints lines of other programs, which are no evidence."""
    (states,) = description.named(["libbpf-tcpstates"])
    row = "ffff888195620940 7 a b 192.0.2.1 {} 192.0.2.2 {} CLOSE -> SYN_SENT 0.000\n"
    lines = [row.format(*ports) for ports in ((40000, 9999), (40000, 22), (0, 9999), (40000, 3879))]
    assert reading.without_foreign(states, "SKADDR\n" + "".join(lines), 9999) == (
        "SKADDR\n" + lines[0] + lines[2] + lines[3],
        1,
    )
    (dump,) = description.named(["tcpdump"])
    assert reading.without_foreign(dump, "any line\n", 9999) == ("any line\n", 0)


def test_a_line_that_is_not_read():
    """A line with the port of the experiment that is no row shows a mistake of the description."""
    table = tool(Output("table", row=r"^(?P<lport>\d+)$"))
    assert reading.unread(table, "80\nport 80:\n", 80) == "port 80:"
    assert reading.unread(table, "80\nport 8080\n", 80) == ""


def test_a_function_reads_what_no_form_fits(tmp_path):
    """`output.python` names a function in a file beside the description."""
    (tmp_path / "mine.py").write_text("def read(text):\n    yield {'source': text.strip()}\n")
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ncommand = ["true"]\nready.after = "1s"\n[output]\nformat = "python"\npython = "mine.py:read"\n'
        '[[quantity]]\nkind = "flows"\n'
    )
    mine = description.load(tmp_path / "mine.toml")
    (row,) = reading.told(mine, mine.quantities[0], "192.0.2.1\n", "").rows
    assert row.fields == {"source": "192.0.2.1"}


def test_a_value_of_another_type_names_the_line():
    """The error quotes the line and names the field."""
    with pytest.raises(LabError, match=r"the field `packets` of `\{.packets.: .many.\}` is no packets"):
        reading.told(tool(Output()), Quantity("flows"), '{"packets": "many"}\n', "")


@pytest.mark.parametrize(
    ("stderr", "number"),
    [
        ("lab: 12 events lost: the output is not complete\nlab: 1 events lost: the output is not complete", 13),
        ("lost 416 events on CPU #0\nlost 29 events on CPU #0", 445),
        ("Possibly lost 7 samples", 7),
        ("Lost 3 events", 3),
        ("132018 packets captured\n5 packets dropped by kernel\n0 packets dropped by interface", 5),
        ("2 packets dropped from lo", 2),
        ("listening on lo, link-type EN10MB\n100 packets received by filter\n0 packets dropped by kernel", 0),
    ],
)
def test_losses_are_read(stderr, number):
    """Each tool's own message about lost events or packets gives the number."""
    assert reading.told(tool(Output()), Quantity("flows"), "", stderr).lost == number


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


def test_a_struct_with_given_offsets():
    """Padding puts each member at its offset, in a union with the first declaration of the struct."""
    text = with_offsets("tcp_sock", {"u32 srtt_us": 1460}, "struct sock sk;")
    assert text == (
        "struct tcp_sock { union { struct sock sk; "
        "struct __attribute__((packed)) { char before_0[1460]; u32 srtt_us; }; }; };"
    )


def mine(output):
    """Return a tool that prints RTT samples."""
    return Description(name="mine", command=["x"], quantities=[Quantity("rtt", unit="ms")], output=output)


def test_a_time_of_day_is_not_read_without_a_clock():
    """An ISO time among the fields of JSON is left out; with a clock it is Unix time to the nanosecond (RFC 3339)."""
    line = '{"time": "2026-11-30T19:56:24.000000015+00:00", "raddr": "192.0.2.2", "value": 5}\n'
    tool = mine(Output(format="json"))
    (row,) = reading.told(tool, tool.quantities[0], line, "").rows
    assert row.fields == {"raddr": "192.0.2.2", "value": 5_000_000}
    (row,) = reading.told(tool, Quantity("duration", unit="ms", clock="wall"), line, "").rows
    assert row.get("time") == 1_796_068_584_000_000_015


def test_samples_without_a_value_are_a_mistake_of_the_description():
    """A misspelt group of a pattern does not make every number unknown: the error names the field that is missing."""
    tool = mine(Output(format="table", row=r"(?P<raddr>\S+) (?P<val>\S+)"))
    with pytest.raises(
        LabError, match=r"no record has the field `value`, such as `192.0.2.2 40.1`: name it in `fields`"
    ):
        reading.told(tool, tool.quantities[0], "192.0.2.2 40.1\n", "")


def time_of(text, unit):
    """Return the nanoseconds of a value that a tool printed in a unit."""
    quantity = Quantity("duration", "syn_seen", "first_end_seen", unit)
    (row,) = reading.told(tool(Output("json"), quantity), quantity, f'{{"value": "{text}"}}', "").rows
    return row.get("value")


@given(
    st.integers(0, 10**12), st.integers(0, 10**9 - 1), st.integers(0, 9), st.booleans(), st.sampled_from([*NS_OF_UNIT])
)
def test_times_are_exact(whole, part, digits, negative, unit):
    """Every digit counts down to the nanosecond, with either sign and in every unit: no float is involved."""
    text = f"{whole}.{part:09d}"[: len(str(whole)) + (digits + 1 if digits else 0)]
    exact = Fraction(text) * NS_OF_UNIT[unit]
    assert time_of(f"-{text}" if negative else text, unit) == (-int(exact) if negative else int(exact))


@pytest.mark.parametrize(
    ("text", "unit", "ns"),
    [
        (".5", "ms", 500_000),
        ("-.5", "ms", -500_000),
        ("1e3", "us", 1_000_000),
        ("1.5e-3", "s", 1_500_000),
        ("+2", "ms", 2_000_000),
        ("7.", "us", 7000),
        ("1.9999999999", "s", 1_999_999_999),
    ],
)
def test_other_forms_of_a_time(text, unit, ns):
    """What is no plain number is read as a float, and rounded to nanoseconds."""
    assert time_of(text, unit) == ns
