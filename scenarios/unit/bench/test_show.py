"""What `lab bench` prints: a summary of one screen, and with --all every table."""

from lab.bench.show import summary
from lab.results.measurement import Goal, Measurement

LINES, COLUMNS = 44, 80  # two screens, without the lines of the report


def many():
    """Return more rows than a bench has: 12 chapters, 40 tools, long names, a hostile one."""
    rows = []
    for chapter in range(12):
        for tool in range(40):
            name = f"a tool with a long name, {tool}" if tool else "\x1b[2J"
            goal = Goal(least=False, value=100)
            rows.append(Measurement(f"chapter {chapter}", name, "what it takes " * 9, "ns", [tool * 10.0], goal=goal))
    rows += [
        Measurement("corpus", f"lab {tool}", case, "verdict", [tool % 2]) for tool in range(9) for case in ("S1", "S2")
    ]
    return [*rows, Measurement("corpus", "bpftrace", "S1", "verdict", refused="line\n" * 1000)]


def test_one_screen():
    """However many rows there are, the summary has no more lines, and no line is longer than a terminal."""
    lines = "\n".join(summary(many())).splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert all(line.isprintable() for line in lines)


def test_what_it_says():
    """The goals, those missed by most first; a line for each chapter; known mistakes by tool; tools that cannot run."""
    head, *lines = "\n".join(summary(many())).splitlines()
    assert head == "132 of 480 goals are reached. Missed by most:"
    assert lines[0].startswith("  390 ns, the goal is at most 100 ns: a tool with a long name, 39, chapter")
    assert "  ... and " in lines[10]
    assert "chapter 3            40       40  11 of 40" in lines
    text = " ".join(lines)
    assert "lab 1 2 of 2" in text
    assert "lab 0 0 of 2" in text
    assert text.endswith("Cannot run here: bpftrace")


def test_all_goals_reached():
    """Without a missed goal, no goal is listed; without goals, none is counted."""
    row = Measurement("start", "lab rtt", "cold", "ms", [1.0], goal=Goal(least=False, value=2))
    assert next(summary([row])) == "1 of 1 goals are reached."
    assert "goals are reached" not in next(summary([]))
