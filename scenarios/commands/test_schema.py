"""`lab schema`: the JSON Schema of each live tool's rows."""

import json

import jsonschema
import pytest
from support.processes import lab_command, refuses

from lab import probes
from lab.live.account import SCHEMA_VERSION


@pytest.mark.parametrize("tool", probes.names())
def test_each_tool_has_a_schema(tool):
    """It is a valid JSON Schema; each kind of row has a name with a version, and the three fields of every row."""
    done = lab_command("schema", tool)
    assert not done.stderr
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    parts = [schema["$defs"][one["$ref"].rpartition("/")[2]] for one in schema["oneOf"]]
    names = [part["properties"]["schema"]["const"] for part in parts]
    assert names[0] == f"{tool}/{SCHEMA_VERSION}"
    assert names[-1] == f"account/{SCHEMA_VERSION}"
    assert all({"schema", "time", "time_ns"} <= set(part["required"]) for part in parts[:-1])


def test_no_such_tool():
    """One sentence with the names."""
    refuses(["schema", "state"], "there is no live tool `state`: give one of analyse, drops, duration")
