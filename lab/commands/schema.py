"""Print the JSON Schema of what a live tool prints with --json.

Each line is a row; the last one can be the account of what is missing. The
field `schema` names the kind of a line and its version. Within a version no
field is removed, and none changes its name, type, unit or meaning. Fields may
be added: ignore those that you do not know.
"""

import argparse
import json
from typing import Any

import msgspec

from lab import probes
from lab.errors import LabError
from lab.live.account import SCHEMA_VERSION
from lab.live.row_types import Account

EXAMPLES = """\
examples:
  lab schema states     of the rows of `lab states`
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("tool", metavar="TOOL", help=f"the live tool: {', '.join(probes.names())}")


def run(args: argparse.Namespace) -> int:
    """Print the schema of a tool."""
    print(json.dumps(schema_of(args.tool), indent=2))
    return 0


def schema_of(tool: str) -> dict[str, Any]:
    """Return the JSON Schema of a line of `lab TOOL --json`. Raises `LabError` if there is no such tool."""
    if tool not in probes.names():
        raise LabError(f"there is no live tool `{tool}`: give one of {', '.join(probes.names())}")
    types: dict[str, Any] = {**probes.part(tool, "rows").SCHEMAS, "account": Account}
    schemas, parts = msgspec.json.schema_components(types.values(), ref_template="#/$defs/{name}")
    for name, one in zip(types, schemas, strict=True):
        properties = parts[one["$ref"].removeprefix("#/$defs/")]["properties"]
        properties["schema"] |= {"const": f"{name}/{SCHEMA_VERSION}"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"lab {tool} --json, version {SCHEMA_VERSION}",
        "oneOf": list(schemas),
        "$defs": parts,
    }
