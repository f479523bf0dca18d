"""Comparison of rows with what happened: what each kind calls right, wrong, missing, lost and unknown."""

import pytest

from lab.judging.case import Case
from lab.judging.cases.traffic import as_many_as_sent
from lab.judging.description import Description
from lab.judging.finding import Verdict, worst
from lab.judging.happened import Carried, Happened, Happening, Held, Sent, Socket, Wait
from lab.judging.judgement import Evidence, Product, invented, judged
from lab.judging.kinds import KINDS
from lab.judging.points import Point
from lab.judging.quantity import Quantity, Row, Told
from lab.judging.stage import Printed
from lab.tcp import Flow

CLIENT = Flow("192.0.2.1", 40000, "192.0.2.2", 80)
ENDS = {"laddr": "192.0.2.1", "lport": 40000, "raddr": "192.0.2.2", "rport": 80}
SWAPPED = {"laddr": "192.0.2.2", "lport": 80, "raddr": "192.0.2.1", "rport": 40000}
POINTS = {"syn_seen": Point(100, 110, "the log"), "first_end_seen": Point(1100, 1120, "the log")}
STATES = ["SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT"]


def happening(**changes):
    client = Socket(
        CLIENT, "client", 7, POINTS, [STATES], [Wait("SYN_SENT", 40, 60, 50), Wait("ESTABLISHED", 400, 410, 405)]
    )
    server = Socket(
        CLIENT.reversed(), "server", 8, POINTS, [["SYN_RECV", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK", "CLOSE"]]
    )
    fields = {
        "client": client,
        "server": server,
        "least_ns": {},
        "to_server": Carried(5, 500, 430, 100, 1),
        "to_client": Carried(4, 400, 344, 100, 0),
    }
    return Happening(**fields | changes)


def found(kind, rows, lost=0, happened=None, **quantity):
    """Return the verdicts of rows by the quantity's name."""
    happened = happened or Happened("an experiment", 80, ["192.0.2.1"], ["192.0.2.2"], [happening()])
    told = Told([Row(row, str(row)) for row in rows], lost)
    findings = list(KINDS[kind].compare(Quantity(kind, **quantity), told, happened))
    return {finding.quantity: finding for finding in findings}


def verdicts(*args, **options):
    return {name: str(finding.verdict) for name, finding in found(*args, **options).items()}


BETWEEN = {"start": "syn_seen", "end": "first_end_seen", "unit": "ns"}
NAME = "from syn_seen to first_end_seen"


@pytest.mark.parametrize(
    ("value", "verdict", "distance"),
    [
        (990, "right", 0),
        (1020, "right", 0),
        (1021, "right", 0),
        (1022, "wrong", 1),
        (988, "wrong", 1),
        (None, "unknown", 0),
    ],
)
def test_a_duration(value, verdict, distance):
    """A value is right inside of the interval, or outside by no more than the tool's resolution."""
    finding = found("duration", [ENDS | {"value": value}], **BETWEEN)[NAME]
    assert (str(finding.verdict), finding.distance) == (verdict, distance)
    assert (finding.low, finding.high) == (990, 1020)


def test_a_row_may_name_either_end_first():
    """Without a row of the client's socket, that of the server's counts. The first row of a connection counts."""
    assert verdicts("duration", [SWAPPED | {"value": 1000}, SWAPPED | {"value": 5}], **BETWEEN) == {NAME: "right"}


def test_a_row_of_the_servers_socket_has_the_servers_points():
    """A tool at the server measures between other points: those of its socket. Without one, either end may be named first."""
    late = {"syn_seen": Point(200, 210, "the log"), "first_end_seen": Point(1300, 1320, "the log")}
    server = Socket(CLIENT.reversed(), "server", 8, late)
    both = Happened("an experiment", 80, connections=[happening(server=server)])
    for ends, value in ((SWAPPED, 1100), (ENDS, 1000)):
        shown = found("duration", [ends | {"value": value}], happened=both, **BETWEEN)[NAME]
        assert (shown.verdict, shown.subject) == (
            Verdict.RIGHT,
            str(CLIENT if ends is ENDS else CLIENT.reversed()),
        )
    alone = Happened("an experiment", 80, connections=[happening(server=None)])
    assert verdicts("duration", [SWAPPED | {"value": 1000}], happened=alone, **BETWEEN) == {NAME: "right"}


def test_a_time_that_cannot_be():
    """A time of a connection that has not reached both points is not judged, unless it is negative."""
    never = {"start": "established_entered", "end": "socket_closed", "unit": "ns"}
    assert verdicts("duration", [ENDS | {"value": 5}], **never) == {}
    assert verdicts("duration", [ENDS | {"value": 0}], **never) == {}
    assert set(verdicts("duration", [ENDS | {"value": -1}], **never).values()) == {"wrong"}


REQUESTS = [
    {"request_written": Point(10 * n, 10 * n, ""), "reply_read": Point(10 * n + 5, 10 * n + 6, "")} for n in (1, 2)
]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5, 6], ["right", "right"]),
        ([5, 8], ["right", "wrong"]),
        ([3, 6], ["wrong", "right"]),
        ([5], ["right", "missing"]),
        ([], ["missing", "missing"]),
    ],
)
@pytest.mark.parametrize("ends", [ENDS, SWAPPED])
def test_requests(values, expected, ends):
    """The rows of a connection are its requests, in order; either socket may be named first."""
    happened = Happened("an experiment", 80, connections=[happening(requests=REQUESTS)])
    quantity = Quantity("requests", "request_written", "reply_read", "ns")
    told = Told([Row(ends | {"value": value}, "") for value in values], 0)
    assert [str(it.verdict) for it in KINDS["requests"].compare(quantity, told, happened)] == expected


@pytest.mark.parametrize(("lost", "verdict"), [(0, "missing"), (3, "lost")])
def test_no_row(lost, verdict):
    """A value without a row is missing, or lost if the tool says that it lost something."""
    assert verdicts("duration", [], lost, **BETWEEN) == {NAME: verdict}


def test_a_definition_without_a_value_needs_no_row():
    """A refused connection never was in ESTABLISHED: a tool that begins there has nothing to tell."""
    assert verdicts("duration", [], start="established_entered", end="socket_closed", unit="ns") == {}


def test_a_refused_connection_has_no_local_address():
    """The application does not know the local address, so every address matches."""
    refused = Socket(Flow("0.0.0.0", 40000, "192.0.2.2", 80), "client", 7, POINTS)  # noqa: S104 (compared, not bound)
    happened = Happened("refused", 80, connections=[happening(client=refused, server=None, error="ECONNREFUSED")])
    for ends in (ENDS, SWAPPED):
        assert verdicts("duration", [ends | {"value": 1000}], happened=happened, **BETWEEN) == {NAME: "right"}
    assert verdicts("events", [ENDS], happened=happened, event="failed") == {"failed, of each socket": "right"}
    assert verdicts("events", [ENDS], happened=happened, event="opened") == {"opened": "wrong"}


@pytest.mark.parametrize(("time", "verdict"), [(6105, "right"), (6200, "wrong")])
def test_the_time_of_a_row(time, verdict):
    """A row's own time is judged on its clock, at the point to which the value is measured."""
    happened = Happened("an experiment", 80, connections=[happening()], clocks={"monotonic": 5000})
    shown = verdicts(
        "duration", [ENDS | {"value": 1000, "time": time}], happened=happened, clock="monotonic", **BETWEEN
    )
    assert shown["time of the row (monotonic)"] == verdict


def change(old, new, **fields):
    return ENDS | {"oldstate": old, "newstate": new, "socket": "a"} | fields


PATH = [
    change("CLOSE", "SYN_SENT", value=None, pid=7),
    change("SYN_SENT", "ESTABLISHED", value=50, pid=None),
    change("ESTABLISHED", "FIN_WAIT1", value=405, pid=7),
    change("FIN_WAIT1", "FIN_WAIT2", value=9, pid=None),
    change("FIN_WAIT2", "TIME_WAIT", value=9, pid=None),
]


def test_states():
    """Each time, the order, the ports, the owner and the first row are judged."""
    assert set(verdicts("states", PATH, unit="ns").values()) == {"right"}
    assert found("states", PATH, unit="ns")["sequence of states (client)"].verdict == Verdict.RIGHT


@pytest.mark.parametrize(
    ("number", "fields", "quantity"),
    [
        (1, {"value": 30}, "time in SYN_SENT (client)"),
        (4, {"newstate": "CLOSE"}, "sequence of states (client)"),
        (2, {"pid": 9}, "owner"),
        (0, {"value": 0}, "time in the state before a socket's first row"),
        (3, {"lport": 16540}, "ports"),
    ],
)
def test_a_wrong_row_of_states(number, fields, quantity):
    """Each kind of error has a finding of its own. 16540 is 40000 with its bytes swapped."""
    rows = [row | fields if at == number else row for at, row in enumerate(PATH)]
    assert found("states", rows, unit="ns")[quantity].verdict == Verdict.WRONG


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ({"lport": 0}, {"ports": "right", "owner": "wrong"}),
        ({"lport": None}, {"ports": "right", "owner": "wrong"}),
        ({"rport": 0}, {"ports": "right", "owner": "wrong"}),
        ({"lport": 16540}, {"ports": "wrong", "owner": "wrong"}),
        ({"rport": 20480}, {"ports": "wrong", "owner": "wrong"}),
        ({"lport": 5}, {"ports": "right", "owner": "right"}),
        ({"raddr": "192.0.2.9"}, {"ports": "right", "owner": "right"}),
    ],
)
def test_rows_that_can_be_of_a_connection(ends, expected):
    """Those without a port, or with its bytes swapped, are. Those of another port or peer are not."""
    rows = [PATH[0] | {"pid": 9} | ends, *PATH[1:]]
    shown = verdicts("states", rows, unit="ns")
    assert {name: shown[name] for name in expected} == expected


def flow(packets, size, **fields):
    return {"source": "192.0.2.1", "destination": "192.0.2.2", "packets": packets, "bytes": size} | fields


@pytest.mark.parametrize(
    ("row", "options", "expected"),
    [
        (flow(5, 500), {}, ["right", "right"]),
        (flow(5, 430), {"layer": "ip"}, ["right", "right"]),
        (flow(5, 430), {}, ["right", "wrong"]),
        (flow(6, 500), {}, ["wrong", "right"]),
        (flow(5, 500, sport=40000, dport=80), {}, ["right", "right"]),
        (flow(5, 500, sport=1, dport=2), {}, ["missing"]),
    ],
)
def test_flows(row, options, expected):
    """Packets and bytes of a direction are counted at the layer that the description names."""
    assert list(verdicts("flows", [row], direction="egress", **options).values()) == expected


def test_rows_of_a_flow_are_added_up_or_the_last_counts():
    """A row without a number is one packet. With `last` the last row has the totals."""
    each = [flow(None, 100, sport=40000, dport=80)] * 5
    assert set(verdicts("flows", each, direction="egress").values()) == {"right"}
    totals = [flow(2, 200), flow(5, 500)]
    assert set(verdicts("flows", totals, direction="egress", last=True).values()) == {"right"}
    assert Verdict.WRONG in verdicts("flows", totals, direction="egress").values()


def test_the_last_row_counts_also_beside_the_kernels_counter():
    """F1 reads rows as the other cases of flows do."""
    happened = Happened("bulk", 80, ["192.0.2.1"], ["192.0.2.2"], facts={"least": 5, "most": 6})
    told = Told([Row(flow(number, 100 * number), "a row") for number in (2, 5)], 0)
    for last, verdict in ((True, Verdict.RIGHT), (False, Verdict.WRONG)):
        (finding,) = as_many_as_sent(Quantity("flows", direction="egress", last=last), told, happened)
        assert finding.verdict == verdict


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([flow(1, 60, sport=9, dport=8)], "right"),
        ([flow(1, 60)], "right"),
        ([flow(2, 120)], "wrong"),
        ([flow(1, 60, sport=8, dport=9)], "wrong"),
        ([], "missing"),
    ],
)
def test_frames(rows, verdict):
    """A frame counts once, with its own ports or none."""
    frame = Sent("a VLAN", "UDP", "192.0.2.1", "192.0.2.2", (9, 8), 60)
    happened = Happened("frames", 80, frames=[frame])
    assert verdicts("packets", rows, happened=happened) == {"packets of a VLAN": verdict}


def test_retransmissions():
    """Each direction has its own number; a tool may tell one direction only."""
    assert verdicts("retransmissions", [ENDS]) == {"retransmissions": "right"}
    both = found("retransmissions", [ENDS, SWAPPED])
    assert both["retransmissions"].verdict == Verdict.WRONG  # the server sent nothing again
    assert found("retransmissions", [ENDS, SWAPPED], direction="egress")["retransmissions"].verdict == Verdict.RIGHT
    assert verdicts("retransmissions", [ENDS | {"count": 2}], direction="egress") == {"retransmissions": "wrong"}


def drops(*rows, lost=0, **facts):
    """Return the verdicts of rows of `drops` by the quantity's name."""
    return verdicts("drops", rows, lost, Happened("closed-port", 80, facts=facts))


SYN = {"lport": 40000, "rport": 80}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([SYN], {"drops": "right"}),
        ([SYN | {"count": 1, "lport": 80, "rport": 9}], {"drops": "right"}),
        ([SYN, SYN], {"drops": "wrong"}),
        ([SYN | {"count": 2}], {"drops": "wrong"}),
        ([SYN | {"rport": 81}], {"drops": "missing"}),
        ([], {"drops": "missing"}),
        ([{"count": 1}], {"drops": "unknown"}),
        ([SYN | {"reason": "SKB_DROP_REASON_NO_SOCKET"}], {"drops": "right", "reason": "right"}),
        ([SYN | {"reason": "TCP_CSUM"}], {"drops": "right", "reason": "wrong"}),
        ([SYN | {"reason": "3"}], {"drops": "right"}),
    ],
)
def test_drops(rows, expected):
    """The packets of the port that the kernel dropped, and why, where the tool names it."""
    assert drops(*rows, drops=1) == expected


def test_drops_of_a_case_without_a_cause():
    """Nothing is known of them, or that there were few: none is right, too."""
    assert drops(SYN) == {}
    assert drops(drops=0, most_drops=2) == drops(SYN, SYN, drops=0, most_drops=2) == {"drops": "right"}
    assert drops(SYN, SYN, SYN, drops=0, most_drops=2) == {"drops": "wrong"}
    assert drops(lost=1, drops=1) == {"drops": "lost"}


@pytest.mark.parametrize(
    ("event", "error", "rows", "expected"),
    [
        ("opened", "", [ENDS, SWAPPED], {"opened, of each socket": "right"}),
        ("opened", "", [ENDS, ENDS], {"opened, of each socket": "wrong"}),
        ("opened", "", [], {"opened": "missing"}),
        ("opened", "ECONNREFUSED", [], {"opened": "right"}),
        ("opened", "ECONNREFUSED", [ENDS], {"opened": "wrong"}),
        ("attempted", "ECONNREFUSED", [ENDS], {"attempted, of each socket": "right"}),
        ("accepted", "", [SWAPPED], {"accepted, of each socket": "right"}),
        ("accepted", "", [ENDS], {"accepted": "missing"}),
        ("accepted", "ECONNREFUSED", [], {"accepted": "right"}),
        ("closed", "", [ENDS], {"closed, of each socket": "right"}),
        ("closed", "ECONNREFUSED", [ENDS], {"closed": "wrong"}),
        ("failed", "", [ENDS], {"failed": "wrong"}),
        ("failed", "ECONNREFUSED", [ENDS], {"failed, of each socket": "right"}),
    ],
)
def test_events(event, error, rows, expected):
    """Each happened once at each socket that the tool can see, or to a connection that failed not at all."""
    happened = Happened("x", 80, connections=[happening(error=error)])
    assert verdicts("events", rows, happened=happened, event=event) == expected


def test_frames_that_are_no_ip():
    """A tool that names protocols has a row of theirs; one that does not is not asked."""
    happened = Happened("frames", 80, frames=[Sent("an ARP request", "ARP", "", "", None, 60)])
    name = "frames that are no IP"
    assert verdicts("flows", [{"protocol": "ARP"}], happened=happened) == {name: "right"}
    assert verdicts("flows", [{"protocol": "IP"}], happened=happened) == {name: "wrong"}
    assert verdicts("flows", [{"packets": 1}], happened=happened) == {}
    assert verdicts("flows", [{"protocol": "ARP"}], happened=happened, direction="egress") == {}


def test_samples_of_the_rtt():
    """Each sample lies within the truth, and none is missing. A poll of the smoothed RTT need not see each value."""
    held = [Held(1000, 2000, 2, 3)]
    happened = Happened("rtt", 80, ["192.0.2.1"], ["192.0.2.2"], rtt=held, smoothed=held)
    row = {"raddr": "192.0.2.2", "value": 1500}
    assert verdicts("rtt", [row, row], happened=happened, unit="ns") == {"RTT": "right"}
    assert verdicts("rtt", [row], happened=happened, unit="ns") == {"RTT": "right", "number of RTTs": "missing"}
    assert verdicts("rtt", [row], happened=happened, unit="ns", smoothed=True) == {"RTT": "right"}
    assert verdicts("rtt", [row | {"value": 2002}] * 2, happened=happened, unit="ns") == {"RTT": "wrong"}


def evidence(printed, happened=None):
    tool = Description("mine", ["true"], [Quantity("duration", "syn_seen", "first_end_seen", "ns")])
    happened = happened or Happened("an experiment", 80, ["192.0.2.1"], ["192.0.2.2"], [happening()])
    return Evidence(Product("mine", "1", "6.18", ""), tool, happened, printed)


CASE = Case("N1", ("duration",), lambda _: None)
RIGHT = '{"laddr": "192.0.2.1", "lport": 40000, "raddr": "192.0.2.2", "rport": 80, "value": 1000}\n'


@pytest.mark.parametrize(
    ("printed", "verdict"),
    [
        (Printed(RIGHT), "right"),
        (Printed(RIGHT, status=0, early=0), "crashed"),
        (Printed(RIGHT, status=-11, early=-11), "crashed"),
        (Printed(refused="kprobe is refused"), "cannot run"),
        (Printed(refused="unknown case", unknown_case=True), "not asked"),
        (Printed(""), "missing"),
    ],
)
def test_how_a_tool_ended_comes_first(printed, verdict):
    """A tool that could not run, or ended by itself, is never called wrong."""
    assert str(judged(CASE, evidence(printed))[0]) == verdict


def test_disturbed_traffic():
    """A tool that changed the traffic is told so, whatever its values."""
    kept = evidence(Printed(RIGHT))
    changed = Evidence(kept.product, kept.tool, kept.happened, kept.printed, ["2 segments were sent again"])
    assert judged(CASE, changed)[0] == Verdict.CHANGED


def test_rows_of_no_traffic():
    """Rows of the case without traffic are made up; rows of other ports, and buckets of 0, are not."""
    nobody = Happened("nobody", 80, ["192.0.2.1"], ["192.0.2.2"])
    assert invented(evidence(Printed(RIGHT), nobody))
    assert not invented(evidence(Printed(RIGHT.replace("80,", "81,")), nobody))
    assert not invented(evidence(Printed(""), nobody))


def test_the_gravest_verdict_counts():
    """A case is as right as its worst finding."""
    assert worst([Verdict.RIGHT, Verdict.MISSING, Verdict.UNKNOWN]) == Verdict.MISSING
    assert worst([Verdict.MISSING, Verdict.WRONG]) == Verdict.WRONG
    assert worst([]) == Verdict.NOT_ASKED
