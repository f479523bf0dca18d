"""Small changes of a source text, each of which makes a program that may be wrong: pure functions over text.

What lives here: which changes there are, for C and for Python. What does not: whether a change matters (`mutants.py`).
"""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple


class Mutant(NamedTuple):
    """A change of one file: the text from `start` to `end` becomes `after`. `operator` names the kind of change."""

    file: str
    operator: str
    start: int
    end: int
    after: str

    def applied(self, text: str) -> str:
        """Return the changed text of the file."""
        return text[: self.start] + self.after + text[self.end :]

    def line(self, text: str) -> int:
        """Return the number of the line that the change begins in, from 1."""
        return text.count("\n", 0, self.start) + 1


_IN_C = {
    "comparison": {"<": ["<="], "<=": ["<"], ">": [">="], ">=": [">"], "==": ["!="], "!=": ["=="]},
    "logic": {"&&": ["||"], "||": ["&&"]},
    "arithmetic": {"+": ["-"], "-": ["+"], "*": ["+"], "/": ["*"], "%": ["/"]},
    "bits": {"&": ["|"], "|": ["&"], "<<": [">>"], ">>": ["<<"], "^": ["&"]},
    "assignment": {"+=": ["="], "-=": ["+="], "|=": ["="], "&=": ["="]},
    "constant": {"true": ["false"], "false": ["true"]},
}
_TOKEN = re.compile(
    r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|^[ \t]*\#(?:\\\n|[^\n])*|(?P<word>
    <<=|>>=|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|[-+*/%&|^<>!=~]|\w+|\n|[(){};,\[\]?:.])""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_NUMBER = re.compile(r"(?:0[xX][0-9a-fA-F]+|\d+)[uUlL]*")
_STATEMENT = re.compile(r"^[ \t]+(?!return\b|struct\b|const\b|u8\b|u16\b|u32\b|u64\b|int\b|bool\b|goto\b|break\b|continue\b)"
                        r"[A-Za-z_*][^\n{}]*;[ \t]*$", re.MULTILINE)  # fmt: skip
_CONDITION = re.compile(r"\bif \((?P<condition>[^\n]*)\)(?=[ \t]*(?:\{|\n))")
_RETURN = re.compile(r"\breturn (?P<value>[^;\n]+);")
_DECLARATION = re.compile(r"^(?:(?:BPF_[A-Z_]+|_Static_assert)\(.*| +return rescues\(.* : 0;)$", re.MULTILINE)
_OF_LINES = (
    ("statement", _STATEMENT, 0, (";",)),
    ("condition", _CONDITION, "condition", ("0", "1")),
    ("return", _RETURN, "value", ("0",)),
)
_NOTHING = ("0", "NULL", "false")
"""Values that `return 0` does not change."""


def of_c(file: str, text: str) -> Iterator[Mutant]:
    """Yield the mutants of a C file.

    Comments, texts, the preprocessor's lines, the sizes of maps, what only the compiler checks and what a second program
    returns are left alone.
    """
    matches = list(_TOKEN.finditer(text))
    declared = [range(*match.span()) for match in _DECLARATION.finditer(text)]
    code = [match for match in matches if match["word"] and match["word"] != "\n"]
    code = [match for match in code if not any(match.start() in it for it in declared)]
    for before, match in pairwise([None, *code]):
        if match is not None:
            yield from _of_word(file, match, before["word"] if before else "")
    skipped = [match.span() for match in matches if not match["word"]]
    for operator, pattern, part, changes in _OF_LINES:
        for match in pattern.finditer(text):
            if not any(start <= match.start() < end for start, end in skipped) and match[part] not in _NOTHING:
                yield from (Mutant(file, operator, *match.span(part), after) for after in changes)


def _of_word(file: str, match: re.Match[str], before: str) -> Iterator[Mutant]:
    word, span = match["word"], match.span()
    binary = before in (")", "]") or re.fullmatch(r"\w+", before)
    for operator, changes in _IN_C.items():
        if binary or operator not in ("arithmetic", "bits"):  # otherwise a sign, an address or a pointer
            yield from (Mutant(file, operator, *span, after) for after in changes.get(word, ()))
    if word == "!":
        yield Mutant(file, "logic", *span, "")
    # The kernel ignores what a tracing program returns. Others return constants with names.
    if _NUMBER.fullmatch(word) and before not in ("[", "return"):
        yield Mutant(file, "constant", *span, f"({word} + 1)")


_OF_COMPARISON: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
}  # fmt: skip
_OF_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.FloorDiv: "*", ast.Mod: "*",
    ast.BitAnd: "|", ast.BitOr: "&", ast.LShift: ">>", ast.RShift: "<<",
}  # fmt: skip


Change = tuple[str, ast.expr | ast.stmt | tuple[ast.expr, ast.expr], str]
"""The kind of a change, what it replaces (a node, or the operator between two), and by what."""


def of_python(file: str, text: str) -> Iterator[Mutant]:
    """Yield the mutants of a Python file. Annotations, docstrings, imports and texts of errors are left alone."""
    whole, lines = text.encode(), [0]
    for line in whole.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def place(line: int, column: int) -> int:
        return len(whole[: lines[line - 1] + column].decode())

    def span(node: ast.expr | ast.stmt) -> tuple[int, int]:
        return place(node.lineno, node.col_offset), place(node.end_lineno or 0, node.end_col_offset or 0)

    for node in _code(ast.parse(text)):
        for operator, where, after in (*_of_operator(node), *_of_value(node)):
            if not isinstance(where, tuple):
                yield Mutant(file, operator, *span(where), after)
                continue
            start, end = span(where[0])[1], span(where[1])[0]
            gap = text[start:end]
            if "\n" not in gap and "#" not in gap:
                yield Mutant(file, operator, start, end, f"{')' * gap.count(')')} {after} {'(' * gap.count('(')}")


def _of_operator(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _OF_COMPARISON:
            yield "comparison", (left, right), _OF_COMPARISON[type(operator)]
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OF_BINARY:
            yield "arithmetic", (left, right), _OF_BINARY[type(operator)]
        case ast.BoolOp(op=operator, values=[left, right]):
            yield "logic", (left, right), "or" if isinstance(operator, ast.And) else "and"
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
            yield "logic", node, f"({ast.unparse(operand)})"


def _of_value(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Constant(value=bool() as value):
            yield "constant", node, str(not value)
        case ast.Constant(value=int() as value):
            yield "constant", node, str(value + 1)
        case ast.If(test=test) | ast.IfExp(test=test):
            yield "condition", test, "True"
            yield "condition", test, "False"
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield "return", value, "None"
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            yield "statement", node, "pass"


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of code that decides about results."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(
                child, ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert
            ):
                yield child
                yield from _code(child)
