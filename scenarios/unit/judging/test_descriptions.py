"""Descriptions of tools: every one that comes with the lab is right, and mistakes are named."""

import pytest

from lab.errors import LabError
from lab.judging import cases, description

RIGHT = """\
name = "mine"
command = ["mine", "{interface}", "awk '{ print }'", "${port}"]
ready.text = "ready"

[[quantity]]
kind = "duration"
from = "syn_seen"
to = "first_end_seen"
unit = "ms"
"""


@pytest.fixture
def loaded(tmp_path):
    """Return a function that loads a description from its text."""

    def load(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return description.load(path)

    return load


def test_every_tool_is_put_to_a_case():
    """Names are unique, and every kind that a tool claims is asked for by a case."""
    tools = description.shipped()
    assert len({tool.name for tool in tools}) == len(tools) > 20
    asked = {kind for case in cases.every() for kind in case.kinds}
    assert all(set(tool.kinds) <= asked for tool in tools)
    assert all(any(case.asks(tool) for case in cases.every()) for tool in tools)


def test_every_case_has_a_sentence():
    """Names of cases are unique; each says what a correct tool tells."""
    found = cases.every()
    assert len({case.name for case in found}) == len(found) > 25
    assert all(case.text and case.experiment.__doc__ for case in found)


def test_placeholders(loaded):
    """Known placeholders are replaced; other braces are kept, as in a script."""
    assert loaded(RIGHT).words({"interface": "eth0"}) == ["mine", "eth0", "awk '{ print }'", "${port}"]


def test_a_filter_adds_its_options(loaded):
    """An option for a port is added only where a case filters by it."""
    tool = loaded(RIGHT.replace("ready.text", 'filters.local_port = ["-L", "{port}"]\nready.text'))
    assert tool.words({}, local_port=80)[-2:] == ["-L", "80"]
    assert "-L" not in tool.words({})


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ('name = "mine"', "name = 3", "Expected `str`, got `int` - at `$.name`"),
        ('command = ["mine"', 'commands = ["mine"', "unknown field `commands`"),
        ('kind = "duration"', 'kind = "durations"', "quantity 1 has the kind `durations`: choose from "),
        ('from = "syn_seen"', 'from = "syn"', "quantity 1 has the point `from` = `syn`: choose from connect_called"),
        ('from = "syn_seen"', "", "quantity 1 has the point `from` = ``"),
        ('unit = "ms"', 'unit = "min"', "quantity 1 has the unit `min`: choose from ns"),
        ('kind = "duration"', 'kind = "flows"', "quantity 1 has the unit `ms`: choose from B, kB, KiB, MB, MiB"),
        ('unit = "ms"', 'unit = "ms"\nfields = { addr = "x" }', "quantity 1 has the field `addr`: choose from laddr"),
        ('ready.text = "ready"', 'output = { format = "table" }', "a table needs `output.row`"),
        ('ready.text = "ready"', 'output = { format = "table", row = "(" }', "`(` is no regular expression"),
        ('ready.text = "ready"', 'output = { format = "openmetrics" }', "OpenMetrics need `output.address`"),
        ('ready.text = "ready"', "", "nothing says when it observes"),
        ("[[quantity]]", "[[quantity", "cannot be read"),
        ("{interface}", "{interfaces}", "`{interfaces}` is no placeholder: choose from netns"),
        ('ready.text = "ready"', 'ready.after = "5"', "ready.after: `5` is not a duration: write it like 250us"),
        ('unit = "ms"', 'unit = "ms"\nresolution = "1"', "resolution of quantity 1: `1` is not a duration"),
    ],
)
def test_mistakes_are_named(loaded, right, wrong, message):
    """The error has the file, the place and what can be chosen."""
    with pytest.raises(LabError) as caught:
        loaded(RIGHT.replace(right, wrong, 1))
    assert message in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_an_unknown_tool():
    """The error lists the tools that come with the lab."""
    with pytest.raises(
        LabError, match=r"there is no tool nothing: name the file of a description, or one of argus, bcc-"
    ):
        description.named(["nothing"])
