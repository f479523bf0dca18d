"""The text of a C file of `bpf/`, with the lab's headers inserted, and the kernel facts that it mentions.

What lives here: reading the text, and looking up the facts in BTF. What does not: compiling (`compiler.py`).
"""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lab.errors import LabError
from lab.linux.btf import Btf
from lab.paths import SOURCES

KFUNCS = 0x10000000
"""Offset of the numbers of kernel functions. The compiler takes them for helpers: they must differ from all helpers."""

_INCLUDE = re.compile(r'^#include "([\w./]+)"$', re.MULTILINE)
_MACRO = re.compile(r"^#define .*$", re.MULTILINE)
_FIELD = re.compile(r"\bFIELD\((\w+), ([\w, ]+)\)")
_ENUM = re.compile(r"\bENUM\((\w+), (\w+)\)")
_TRACEPOINT_ARGS = re.compile(r"\bTRACEPOINT_ARGS\((\w+)\)")
_FUNCTION_ARGS = re.compile(r"\b(?:FUNCTION_ARGS|RETURNED)\((\w+)\)")
_ARGUMENT_OF = re.compile(r"\bARGUMENT_OF\((\w+), (\w+)\)")
_KFUNC = re.compile(r"\bKFUNC\((\w+)\)")
_ON = re.compile(r"\bON_([A-Z_]+)\(")
_EVENT = re.compile(r"\bEVENT\((\w+)\)")


class Mentions(NamedTuple):
    """The kernel facts that a text mentions: each once, sorted."""

    fields: list[tuple[str, str]]
    """Type and member path: `("sock", "sk_lock, owned")`."""
    enumerators: list[tuple[str, str]]
    tracepoint_args: list[str]
    function_args: list[str]
    arguments: list[tuple[str, str]]
    """Function and name of an argument."""
    kfuncs: list[str]
    """Kernel functions that programs may call. The text has to compile without them on a kernel that lacks them."""
    events: list[str]
    """Raw tracepoints with a number in the C code: the index in this list."""


def text_of(source: Path) -> str:
    """Return a file's text with the lab's headers inserted, since BCC rewrites map operations in the main text only.

    `#line` directives keep file and line in messages right.
    """
    return _with_includes(source.read_text(encoding="utf-8"), source.name, set())


def _with_includes(text: str, name: str, seen: set[str]) -> str:
    def insert(found: re.Match[str]) -> str:
        header, line = found[1], text.count("\n", 0, found.start()) + 2
        if header in seen:
            return ""
        seen.add(header)
        inner = _with_includes((SOURCES / header).read_text(encoding="utf-8").replace("#pragma once", ""), header, seen)
        return f'#line 1 "{header}"\n{inner}\n#line {line} "{name}"'

    return _INCLUDE.sub(insert, text)


def mentions(text: str) -> Mentions:
    """Return the kernel facts that a text mentions; the definitions of the macros themselves do not count."""
    used = _MACRO.sub("", text)
    patterns = (_FIELD, _ENUM, _TRACEPOINT_ARGS, _FUNCTION_ARGS, _ARGUMENT_OF, _KFUNC, _EVENT)
    return Mentions(*(sorted(set(pattern.findall(used))) for pattern in patterns))


def kinds(text: str) -> set[str]:
    """Return the kinds of attach points that a text mentions, in any branch of the preprocessor (`lab/ebpf/attach.py`)."""
    return {kind.lower() for kind in _ON.findall(_MACRO.sub("", text))}


def differs_by_mechanism(text: str) -> bool:
    """Return true if the text compiles to another program for each mechanism (`bpf/include/kernel_functions.h`)."""
    return "ATTACH_" in text


def kernel_facts(mentioned: Mentions, btf: Btf) -> tuple[list[str], dict[str, str]]:
    """Look up each kernel member, enumerator, tracepoint and function that a text mentions.

    Returns definitions (`NAME=value`) for the compiler, and for each fact that this kernel lacks the name of the
    undefined macro and an error message. A missing fact may be in a branch that the preprocessor removes: it is an
    error only if the compilation fails.
    """
    lookups: dict[str, Callable[[], list[str]]] = {}
    for type_name, members in mentioned.fields:
        path = members.replace(" ", "").split(",")
        lookups["__".join(["OFFSET", type_name, *path])] = partial(_field, btf, type_name, path)
    for enum, name in mentioned.enumerators:
        lookups[f"ENUM__{enum}__{name}"] = partial(_number, btf.enumerator, enum, name)
    for event in mentioned.tracepoint_args:
        lookups[f"TRACEPOINT_ARGS__{event}"] = partial(_number, btf.tracepoint_args, event)
    for function in mentioned.function_args:
        lookups[f"FUNCTION_ARGS__{function}"] = partial(_number, btf.function_args, function)
    for function, argument in mentioned.arguments:
        lookups[f"ARGUMENT_OF__{function}__{argument}"] = partial(_number, btf.function_argument, function, argument)
    known: list[str] = []
    missing: dict[str, str] = {}
    for macro, look_up in lookups.items():
        try:
            values = look_up()
        except LabError as error:
            missing[macro] = str(error)
        else:
            known += [f"{macro}={values[0]}", *values[1:]]
    for name in mentioned.kfuncs:
        with suppress(LabError):
            known.append(f"KFUNC__{name}={KFUNCS + btf.type_id('FUNC', name)}")
    return known, missing


def _field(btf: Btf, type_name: str, path: list[str]) -> list[str]:
    """Return the offset of a member, then definitions of its size and of its struct's BTF id."""
    field, name = btf.field(type_name, ".".join(path)), "__".join([type_name, *path])
    if field.bit_size:
        raise LabError(f"`{type_name}.{'.'.join(path)}` is a bitfield: read its storage unit and extract the bits")
    return [str(field.offset), f"SIZE__{name}={field.size}", f"TYPE__{type_name}={btf.composite(type_name)}"]


def _number(look_up: Callable[..., int], *names: str) -> list[str]:
    return [str(look_up(*names))]
