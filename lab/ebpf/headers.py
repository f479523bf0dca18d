"""The kernel header tree for BCC: a few generated files, the same on every distribution.

BCC's own helpers include some kernel headers, of which the lab needs only the type names below. The headers of a
distribution would define struct layouts that are wrong on another kernel. Protocol headers come from the user-space
headers (`linux-libc-dev`), offsets of struct members from BTF (`lab/linux/btf.py`).
"""

import os
import re
from pathlib import Path

from lab.errors import LabError

_KCONFIG = """\
#pragma once
#define CONFIG_BPF_SYSCALL 1
#define PAGE_SIZE {page_size}
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long long s64;
typedef unsigned long size_t;
typedef long ssize_t;
typedef unsigned long uintptr_t;
"""
_VERSION = """\
#pragma once
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#define LINUX_VERSION_CODE KERNEL_VERSION({major}, {minor}, {patch})
"""
_EMPTY = ("uapi/linux/bpf.h", "uapi/linux/if_packet.h", "linux/log2.h", "asm/page.h")

USER_INCLUDE = Path("/usr/include")


def tree() -> dict[str, str]:
    """Return the text of each file by its path below `include` of a kernel source directory."""
    numbers = [int(number) for number in re.findall(r"\d+", os.uname().release)[:3]]
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    return {
        **dict.fromkeys(_EMPTY, ""),
        "linux/kconfig.h": _KCONFIG.format(page_size=os.sysconf("SC_PAGE_SIZE")),
        "linux/version.h": _VERSION.format(major=major, minor=minor, patch=patch),
    }


def write_tree(root: Path) -> None:
    """Write the tree under `root`, in the layout of a kernel source directory."""
    for name, text in tree().items():
        path = root / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def user_include_flags() -> list[str]:
    """Return compiler flags for the user-space kernel headers. Raises `LabError` when they are not installed."""
    if not (USER_INCLUDE / "linux" / "tcp.h").exists():
        raise LabError(f"{USER_INCLUDE}/linux/tcp.h is missing: install the package linux-libc-dev")
    multiarch = USER_INCLUDE / f"{os.uname().machine}-linux-gnu"
    return ["-idirafter", str(USER_INCLUDE), "-idirafter", str(multiarch)]
