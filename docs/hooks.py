"""Hooks of `mkdocs build`: pages made from code, and links to pages outside of docs/.

- `index.md`, `architecture.md` and `contributing.md` are the files at the root of the checkout.
- `reference/COMMAND.md` is what `lab COMMAND --help` says, and for a live tool what `lab schema COMMAND` says.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from lab import cli, probes
from lab.commands.schema import schema_of

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {"README.md": "index.md", "ARCHITECTURE.md": "architecture.md", "CONTRIBUTING.md": "contributing.md"}
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(#[\w-]+)?\)")
_FETCHED = re.compile(r"<(?:script|img|iframe|link(?! rel=\"canonical\"))\b[^>]*(?:src|href)=\"?(?:https?:)?//[^\">]*")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the commands to the section Reference."""
    (reference,) = (entry["Reference"] for entry in config.nav or [] if "Reference" in entry)
    reference += [{f"lab {name}": f"reference/{name}.md"} for name in cli.names()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_LINK.sub(_from_root, text)))
    for name in cli.names():
        files.append(File.generated(config, f"reference/{name}.md", content="\n\n".join(_reference(name))))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page of docs/ whose links to files at the root of the checkout lead to their pages."""
    for source, page in ROOT_PAGES.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return markdown


def on_post_page(output: str, **_: Any) -> str:
    """Refuse a page that needs another host when it is viewed."""
    if found := _FETCHED.search(output):
        raise PluginError(f"a page fetches something from another host: {found[0]}")
    return output


def _from_root(link: re.Match[str]) -> str:
    target = ROOT_PAGES.get(link[1], link[1].removeprefix("docs/"))
    return f"]({target}{link[2] or ''})"


def _reference(name: str) -> Iterator[str]:
    """Yield the blocks of a command's page."""
    parser = cli.parser_of(name)
    summary, _, rest = (parser.description or "").partition("\n")
    yield f"# lab {name}\n\n{summary}"
    yield _text(parser.format_usage())
    if rest.strip():
        yield _text(rest)
    for group in parser._action_groups:  # noqa: SLF001 (argparse has no other list of them)
        shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]  # noqa: SLF001
        if shown:
            yield f"## {(group.title or '').capitalize()}"
            yield "\n".join(["| option | meaning |", "|---|---|", *(_row(parser, action) for action in shown)])
    for part in re.split(r"\n\n(?=\S)", (parser.epilog or "").strip()):
        head, _, text = part.partition("\n")
        yield f"## {head.rstrip(':').capitalize()}" if text else head
        if text:
            yield _text(text)
    if name in probes.names():
        yield "## Rows of --json"
        yield "[`lab schema`](schema.md) prints the same as JSON Schema, and says what stays as it is."
        for title, part in schema_of(name)["$defs"].items():
            yield f"### {title}"
            yield part.get("description", "")
            fields = (f"| `{field}` | {_type(it)} | {_meaning(it)} |" for field, it in part["properties"].items())
            yield "\n".join(["| field | type | meaning |", "|---|---|---|", *fields])


def _type(schema: dict[str, Any]) -> str:
    """Return the type of a field in words: `integer or null`, `array of Bucket`."""
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    return f"{schema['type']} of {_type(schema['items'])}" if "items" in schema else schema.get("type", "any")


def _meaning(schema: dict[str, Any]) -> str:
    """Return the descriptions of a field: its own, then those of its type."""
    found = [schema.get("description"), *(part.get("description") for part in schema.get("anyOf", ()))]
    if pattern := re.fullmatch(r"\^\(([\w|-]+)\)\$", schema.get("pattern", "")):
        found.append(", ".join(f"`{word}`" for word in pattern[1].split("|")))
    return "; ".join(filter(None, [*found, f"`{schema['const']}`" if "const" in schema else None]))


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    formatter = parser.formatter_class(parser.prog)
    words = formatter._format_action_invocation(action)  # noqa: SLF001 (the words of --help)
    meaning = formatter._expand_help(action) if action.help else ""  # noqa: SLF001
    return "| {} | {} |".format(*(text.replace("|", "\\|").replace("\n", " ") for text in (f"`{words}`", meaning)))


def _text(text: str) -> str:
    lines = text.strip("\n").splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(["```text", *(line[margin:] for line in lines), "```"])
