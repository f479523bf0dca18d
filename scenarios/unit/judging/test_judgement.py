"""Judgements: which findings count for a case, what is kept of them, and what an author is told."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.judging.case import Case
from lab.judging.description import Description
from lab.judging.finding import Finding, Verdict, value
from lab.judging.happened import Carried, Happened, Happening, Socket
from lab.judging.judgement import Evidence, Product, findings, invented, judged, judgement, widths
from lab.judging.points import Point
from lab.judging.quantity import Quantity
from lab.judging.stage import Printed
from lab.tcp import Flow

CLIENT = Flow("192.0.2.1", 40000, "192.0.2.2", 80)
POINTS = {"syn_seen": Point(100, 110, "the log"), "first_end_seen": Point(1100, 1120, "the log")}
BETWEEN = Quantity("duration", "syn_seen", "first_end_seen", "ns", where={"what": "life"})
NEVER = Quantity("duration", "syn_seen", "second_fin_seen", "ns", where={"what": "life"})
FLOWS = Quantity(
    "flows",
    where={"what": "flow"},
    fields={"source": "laddr", "destination": "raddr", "sport": "lport", "dport": "rport"},
    direction="egress",
)
ENDS = {"laddr": "192.0.2.1", "lport": 40000, "raddr": "192.0.2.2", "rport": 80}
LASTED, COUNTED = ENDS | {"what": "life", "value": 1000}, ENDS | {"what": "flow", "packets": 5, "bytes": 500}
AGAIN = ENDS | {"what": "again"}
HAPPENED = Happened(
    "an experiment", 80, ["192.0.2.1"], ["192.0.2.2"],
    [Happening(Socket(CLIENT, "client", 7, POINTS), None, {}, Carried(5, 500, 430, 100, 0))],
)  # fmt: skip
NOBODY = Happened("nobody", 80, ["192.0.2.1"], ["192.0.2.2"])


def case(*kinds, about=(), compare=None):
    return Case("N1", kinds, lambda _: NOBODY, about, compare)


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def evidence(*records, quantities=(BETWEEN, FLOWS), happened=HAPPENED, changed=(), **printed):
    """Return what a tool printed of these quantities."""
    told = {"output": lines(*records)} | printed
    product = Product("mine", "1", "6.18", "")
    return Evidence(product, Description("mine", ["true"], list(quantities)), happened, Printed(**told), list(changed))


def names(found):
    return [(it.quantity, str(it.verdict)) for it in found]


LIFE, PACKETS, BYTES = "from syn_seen to first_end_seen", "packets", "bytes (frame)"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (case("duration"), [(LIFE, "right")]),
        (case("flows"), [(PACKETS, "right"), (BYTES, "right")]),
        (case("duration", "flows"), [(LIFE, "right"), (PACKETS, "right"), (BYTES, "right")]),
        (case("duration", "flows", about=("bytes",)), [(BYTES, "right")]),
        (case("states"), []),
    ],
)
def test_which_findings_count(asked, expected):
    """Those of the kinds that the case is put to, and about what it asks."""
    it = evidence(LASTED, COUNTED)
    assert names(findings(asked, it.tool, it.happened, it.printed)) == expected
    assert names(judged(asked, it)[1]) == expected


def test_a_case_with_a_comparison_of_its_own():
    """It is used in place of the kind's."""
    mine = case("duration", compare=lambda quantity, told, _: [value("mine", quantity.kind, (1, 1, 1), len(told.rows))])
    it = evidence(LASTED, COUNTED)
    assert names(findings(mine, it.tool, it.happened, it.printed)) == [("mine", "right")]


def test_what_is_kept():
    """All findings are counted. Of each verdict at most 200 are kept."""
    many = [value("time", "it", (0, 9, 0), 1)] * 201 + [value("time", "it", (0, 9, 0), 10)] * 3
    asked = case("duration", compare=lambda *_: many)
    kept = judgement(asked, evidence(LASTED), file="a file", revision="r")
    assert kept.counts == {"right": 201, "wrong": 3}
    assert kept.numbers == 204
    assert [it.verdict for it in kept.findings] == [Verdict.RIGHT] * 200 + [Verdict.WRONG] * 3
    assert (kept.verdict, kept.evidence, kept.revision, kept.case) == (Verdict.WRONG, "a file", "r", "N1")
    assert kept.widths_ns == (9, 9)


def test_definitions():
    """Those of the quantities that the case asks for, each once."""
    both = (BETWEEN, BETWEEN, FLOWS, Quantity("states"))
    kept = judgement(case("duration", "states"), evidence(LASTED, quantities=both), file="", revision="")
    assert kept.definitions == ["from syn_seen to first_end_seen"]
    assert judgement(case("flows"), evidence(COUNTED), file="", revision="").definitions == ["bytes of whole frames"]


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=30))
def test_widths(intervals):
    """Half of the intervals are at most as wide as the first, nine tenths as the second; counts have none."""
    found = [value("time", "it", (low, low + width, low), 1) for low, width in intervals]
    found += [value("packets", "it", (0, 10_000, 0), 1, unit=""), Finding("order", "it", Verdict.RIGHT, "ns", low=1)]
    shown = widths(found)
    if not intervals:
        assert shown is None
        return
    spans = sorted(width for _, width in intervals)
    for share, width in zip((0.5, 0.9), shown, strict=True):
        assert width in spans
        assert sum(one < width for one in spans) <= share * len(spans)
        assert sum(one > width for one in spans) <= (1 - share) * len(spans)


@pytest.mark.parametrize(
    ("printed", "verdict", "why"),
    [
        (
            {"unknown_case": True, "refused": "x"},
            Verdict.NOT_ASKED,
            "it says that it does not know this case (status 127)",
        ),
        ({"refused": "no kprobe"}, Verdict.CANNOT_RUN, "no kprobe"),
        ({"early": 3, "stderr": "one\ntwo\n"}, Verdict.CRASHED, "it ended by itself with status 3: two"),
        ({"early": -11, "output": "a\nb\n"}, Verdict.CRASHED, "it ended by itself with signal 11: b"),
        ({"early": 0, "output": ""}, Verdict.CRASHED, "it ended by itself with status 0: "),
    ],
)
def test_how_it_ended(printed, verdict, why):
    """The tool's own words say why: the last line of its errors, or of its output."""
    found = judged(case("duration"), evidence(**printed))
    assert (found[0], found[2]) == (verdict, why)


def test_a_tool_that_changed_the_traffic():
    """The changes are the words."""
    it = evidence(LASTED, changed=["2 segments were sent again", "1 connect() failed"])
    assert judged(case("duration"), it)[::2] == (Verdict.CHANGED, "2 segments were sent again; 1 connect() failed")


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("", ""),
        (
            "nothing here\nat all\n",
            "the description reads none of the 2 lines that the tool printed; the first: nothing here",
        ),
        ("port 80 was used\n", "the description does not read this line: port 80 was used"),
        (lines({"rport": 80, "other": 1}), "`where` matches none of the 1 records that the tool printed"),
        (lines(COUNTED), "`where` matches none of the 1 records that the tool printed"),
        (lines(LASTED | {"laddr": "192.0.2.9"}), ""),
    ],
)
def test_what_an_author_is_told(output, why):
    """If a value is missing: the line or the records that the description does not read."""
    assert judged(case("duration"), evidence(output=output))[::2] == (Verdict.MISSING, why)


def test_a_quantity_that_no_connection_has():
    """It is said that it was not judged, and only if it was asked for."""
    told = "not judged, because no connection of this case has both points: from syn_seen to second_fin_seen"
    assert judged(case("duration"), evidence(LASTED, quantities=(BETWEEN, NEVER)))[::2] == (Verdict.RIGHT, told)
    assert judged(case("flows"), evidence(COUNTED, quantities=(FLOWS, NEVER)))[2] == ""
    assert judged(case("duration"), evidence(LASTED))[2] == ""
    assert judged(case("duration"), evidence(quantities=(NEVER,), happened=NOBODY))[2] == ""


def test_points_of_requests_count_as_reached():
    """A quantity between them is judged."""
    requests = [{"request_written": Point(1, 1, ""), "reply_read": Point(9, 9, "")}]
    happened = Happened(
        "x", 80, connections=[Happening(Socket(CLIENT, "client", 7, POINTS), None, {}, requests=requests)]
    )
    of_requests = Quantity("requests", "request_written", "reply_read", "ns")
    mixed = Quantity("requests", "syn_seen", "reply_read", "ns")
    assert judged(case("requests"), evidence(ENDS | {"value": 8}, quantities=[of_requests], happened=happened))[2] == ""
    assert "not judged" in judged(case("requests"), evidence(quantities=[mixed], happened=happened))[2]


@pytest.mark.parametrize(
    ("record", "kinds"),
    [
        (LASTED, ["duration"]),
        (LASTED | {"laddr": "192.0.2.7"}, ["duration"]),  # the other end is the server's
        (LASTED | {"laddr": "192.0.2.7", "raddr": "192.0.2.8"}, []),
        (LASTED | {"rport": 81}, []),
        (LASTED | {"rport": 40000, "lport": 80}, ["duration"]),
        (AGAIN | {"count": 0}, []),
        (AGAIN | {"count": 1}, ["retransmissions"]),
        (COUNTED, ["flows"]),
    ],
)
def test_rows_without_traffic(record, kinds):
    """A row of one of the hosts and of the port is invented, of whichever kind."""
    again = Quantity("retransmissions", where={"what": "again"})
    found = invented(evidence(record, record, quantities=(BETWEEN, FLOWS, again), happened=NOBODY))
    assert [(it.quantity, it.told, it.verdict) for it in found] == [(kind, "2 rows", Verdict.WRONG) for kind in kinds]
