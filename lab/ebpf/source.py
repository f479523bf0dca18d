"""A C file of `bpf/` as text: the lab's headers put into it, and what it says that it wants to know of the kernel.

What lives here: reading the text, and looking up in the kernel's types what it mentions. What does not: compiling it.
"""

import re
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


def kernel_facts(mentioned: Mentions, btf: Btf) -> tuple[list[str], list[str]]:
    """Look up each kernel member, enumerator, tracepoint and function that a text mentions.

    Returns definitions for the compiler, and a sentence for each that this kernel lacks: those may stand in a branch that
    the preprocessor leaves out here, so only a failed compilation makes them an error.
    """
    lookups = [
        *(partial(_field, btf, *field) for field in mentioned.fields),
        *(partial(_enumerator, btf, *enumerator) for enumerator in mentioned.enumerators),
        *(partial(_tracepoint_args, btf, event) for event in mentioned.tracepoint_args),
        *(partial(_function_args, btf, name) for name in mentioned.function_args),
        *(partial(_argument, btf, *argument) for argument in mentioned.arguments),
    ]
    known: list[str] = []
    missing: list[str] = []
    for look_up in lookups:
        try:
            known += look_up()
        except LabError as error:
            missing.append(str(error))
    for name in mentioned.kfuncs:
        with suppress(LabError):
            known.append(f"KFUNC__{name}={KFUNCS + btf.type_id('FUNC', name)}")
    return known, missing


def _field(btf: Btf, type_name: str, members: str) -> list[str]:
    path = members.replace(" ", "").split(",")
    field, name = btf.field(type_name, ".".join(path)), "__".join([type_name, *path])
    if field.bit_size:
        raise LabError(
            f"`{type_name}.{'.'.join(path)}` is a bitfield: a program reads its unit and takes the bits itself"
        )
    return [
        f"OFFSET__{name}={field.offset}",
        f"SIZE__{name}={field.size}",
        f"TYPE__{type_name}={btf.composite(type_name)}",
    ]


def _enumerator(btf: Btf, enum: str, name: str) -> list[str]:
    return [f"ENUM__{enum}__{name}={btf.enumerator(enum, name)}"]


def _tracepoint_args(btf: Btf, event: str) -> list[str]:
    return [f"TRACEPOINT_ARGS__{event}={btf.tracepoint_args(event)}"]


def _function_args(btf: Btf, name: str) -> list[str]:
    return [f"FUNCTION_ARGS__{name}={btf.function_args(name)}"]


def _argument(btf: Btf, function: str, name: str) -> list[str]:
    return [f"ARGUMENT_OF__{function}__{name}={btf.function_argument(function, name)}"]
