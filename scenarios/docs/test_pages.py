"""Each code block of the documentation runs and prints what its page shows; what sentences name exists."""

import ast
import re
import shlex
from contextlib import closing, suppress

import pytest
from support.pages import CHECKS, Page, blocks_of, files_of, options_of

from lab.paths import CHECKOUT

ROOT = [CHECKOUT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
PAGES = [str(page.relative_to(CHECKOUT)) for page in (*ROOT, *sorted((CHECKOUT / "docs").rglob("*.md")))]
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"\n\n    (?![-*\d|])\S")
COMMAND_LINE = re.compile(r"^(?:[#$] |sudo |lab |make )", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
TARGET = re.compile(r"^([\w-]+):", re.MULTILINE)
SCENARIO = re.compile(
    r"(?:^\| ([A-Z]\d+) \|.*)?`(?:scenarios/)?((?:[\w-]+/)+test_\w+\.py)(?:::(test_\w+))?`", re.MULTILINE
)


def sentences(page):
    """Return a page without its code blocks."""
    return FENCED.sub("", (CHECKOUT / page).read_text(encoding="utf-8"))


def commands(page, program):
    """Yield the words of each command of a program that a sentence or a table names."""
    for span in CODE.findall(sentences(page)):
        with suppress(ValueError):  # no shell words: a text such as `it's`
            words = shlex.split(span.removeprefix("sudo "))
            if words[:1] == [program]:
                yield words[1:]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(CHECKOUT / page)])
def test_the_blocks_of_a_page(page, tmp_path):
    """They run in their order, as by a reader who copies them."""
    with closing(Page(tmp_path)) as state:
        for block in blocks_of(CHECKOUT / page, state.evaluate):
            block.evaluate()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run(page):
    """Something runs or checks the language of each block. No block is indented: it would have no language."""
    for block in blocks_of(CHECKOUT / page):
        language = block.region.lexemes["language"]
        assert block.region.lexemes["title"] or language in CHECKS
        assert language != "text" or not COMMAND_LINE.search(block.parsed), "a command is no text"
    assert not INDENTED.search(sentences(page))


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_lab(page):
    """Commands and options of the lab that a sentence names exist, except those that the page itself adds."""
    added = files_of(CHECKOUT / page)
    for name, *words in filter(None, commands(page, "lab")):
        if re.fullmatch("[a-z]+", name) and f"lab/probes/{name}/cli.py" not in added:
            ours = words[: words.index("--")] if "--" in words else words
            used = {word.partition("=")[0] for word in ours if re.match(r"--?[a-zA-Z]", word)}
            assert used <= options_of(name)


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make(page):
    """Targets and variables of make that a sentence names are in the Makefile."""
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    for words in commands(page, "make"):
        for name, is_variable, _ in (word.partition("=") for word in words):
            assert f"{name} :=" in makefile if is_variable else name in TARGET.findall(makefile)


@pytest.mark.parametrize("page", PAGES)
def test_named_scenarios(page):
    """Each scenario that a page names exists. In a table of known mistakes its docstring names the row."""
    added = files_of(CHECKOUT / page)
    for row, name, function in SCENARIO.findall((CHECKOUT / page).read_text(encoding="utf-8")):
        if f"scenarios/{name}" in added:
            continue
        module = ast.parse((CHECKOUT / "scenarios" / name).read_text(encoding="utf-8"))
        promises = {it.name: ast.get_docstring(it) or "" for it in module.body if isinstance(it, ast.FunctionDef)}
        assert not function or row in promises[function]


def test_environment_variables():
    """The page of the environment variables has each variable of the lab that the code names, and no other."""
    code = "".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "lab").rglob("*.py"))
    page = (CHECKOUT / "docs/reference/environment.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(LAB_\w+)`", page, re.MULTILINE)) == set(re.findall(r"\bLAB_[A-Z]+\b", code))
