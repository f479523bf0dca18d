"""A C file of `bpf/` as text: the lab's headers put into it, and what it says that it wants to know of the kernel.

What lives here: reading the text, and looking up in the kernel's types what it mentions. What does not: compiling it.
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
"""What the numbers of kernel functions are counted from, beyond those of all helpers: the compiler takes one for the other."""

_INCLUDE = re.compile(r'^#include "([\w./]+)"$', re.MULTILINE)
_MACRO = re.compile(r"^#define .*$", re.MULTILINE)
_FIELD = re.compile(r"\bFIELD\((\w+), ([\w, ]+)\)")
_ENUM = re.compile(r"\bENUM\((\w+), (\w+)\)")
_TRACEPOINT_ARGS = re.compile(r"\bTRACEPOINT_ARGS\((\w+)\)")
_FUNCTION_ARGS = re.compile(r"\b(?:FUNCTION_ARGS|RETURNED)\((\w+)\)")
_ARGUMENT_OF = re.compile(r"\bARGUMENT_OF\((\w+), (\w+)\)")
_KFUNC = re.compile(r"\bKFUNC\((\w+)\)")
_EVENT = re.compile(r"\bEVENT\((\w+)\)")


class Mentions(NamedTuple):
    """What a text mentions of the kernel: each once, in alphabetical order."""

    fields: list[tuple[str, str]]
    """Type and path of a member: `("sock", "sk_lock, owned")`."""
    enumerators: list[tuple[str, str]]
    tracepoint_args: list[str]
    function_args: list[str]
    arguments: list[tuple[str, str]]
    """Function and name of one of its arguments."""
    kfuncs: list[str]
    """Functions that programs may call. A text does without those that a kernel lacks."""
    events: list[str]
    """Raw tracepoints that get a number, which is their position here."""


def text_of(source: Path) -> str:
    """Return a file's text with the lab's headers in it.

    BCC rewrites map operations in the main text only, so that is where they have to be. `#line` keeps messages true.
    """
    return _with_includes(source.read_text(), source.name, set())


def _with_includes(text: str, name: str, seen: set[str]) -> str:
    def insert(found: re.Match[str]) -> str:
        header, line = found[1], text.count("\n", 0, found.start()) + 2
        if header in seen:
            return ""
        seen.add(header)
        inner = _with_includes((SOURCES / header).read_text().replace("#pragma once", ""), header, seen)
        return f'#line 1 "{header}"\n{inner}\n#line {line} "{name}"'

    return _INCLUDE.sub(insert, text)


def mentions(text: str) -> Mentions:
    """Find what a text mentions, but for what defines the macros to do so."""
    used = _MACRO.sub("", text)
    patterns = (_FIELD, _ENUM, _TRACEPOINT_ARGS, _FUNCTION_ARGS, _ARGUMENT_OF, _KFUNC, _EVENT)
    return Mentions(*(sorted(set(pattern.findall(used))) for pattern in patterns))


def differs_by_mechanism(text: str) -> bool:
    """Tell whether it is another program for each way to observe kernel functions (`bpf/include/kernel_functions.h`)."""
    return "ATTACH_" in text


def kernel_facts(mentioned: Mentions, btf: Btf) -> tuple[list[str], dict[str, str]]:
    """Look up each kernel member, enumerator, tracepoint and function that a text mentions.

    Returns definitions for the compiler, and for each thing that this kernel lacks the macro that stays undefined, with a sentence
    that names the thing. It may stand in a branch that the preprocessor leaves out: only a failed compilation makes it an error.
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
    """Return the offset of a member, and definitions of its size and of its struct's number."""
    field, name = btf.field(type_name, ".".join(path)), "__".join([type_name, *path])
    if field.bit_size:
        raise LabError(f"`{type_name}.{'.'.join(path)}` is a bitfield: read its unit and take the bits out of it")
    return [str(field.offset), f"SIZE__{name}={field.size}", f"TYPE__{type_name}={btf.composite(type_name)}"]


def _number(look_up: Callable[..., int], *names: str) -> list[str]:
    return [str(look_up(*names))]
