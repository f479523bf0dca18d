"""A page of docs/ as plain blocks for a template: headings, paragraphs, lists, commands. Links and tables are not in them."""

import re
from typing import NamedTuple

Words = list[tuple[str, bool]]
"""A text in pieces, each with whether it is code."""


class Block(NamedTuple):
    """A part of a page. `kind`: `h1`, `h2`, `p`, `ul`, `ol` or `pre`. Lists have several `items`, all others one."""

    kind: str
    items: list[Words]


def blocks(text: str) -> list[Block]:
    """Return the blocks of a text in the Markdown that docs/ uses; blank lines separate them."""
    return [_block(part.rstrip()) for part in re.split(r"\n\s*\n", text.strip("\n")) if part.strip()]


def _block(part: str) -> Block:
    if part.startswith("    "):
        return Block("pre", [[("\n".join(line[4:] for line in part.split("\n")), True)]])
    if heading := re.fullmatch(r"(#{1,2}) (.*)", part):
        return Block(f"h{len(heading[1])}", [_words(heading[2])])
    for kind, mark in (("ul", r"- "), ("ol", r"\d+\. ")):
        if re.match(mark, part):
            return Block(kind, [_words(item) for item in re.split(rf"(?:^|\n){mark}", part)[1:]])
    return Block("p", [_words(part)])


def _words(text: str) -> Words:
    pieces = " ".join(text.split()).split("`")
    return [(piece, number % 2 == 1) for number, piece in enumerate(pieces) if piece]
