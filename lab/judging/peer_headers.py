"""Header tree for compiling BCC's own tools: the lab's headers, and the kernel structs that the tools read.

The structs have only the members that the tools read, each at its offset in the running kernel's BTF. With headers of
another kernel the tools would print wrong values.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lab.ebpf import headers
from lab.errors import LabError
from lab.linux.btf import Btf

_SOCK_COMMON = {
    "skc_daddr": "__be32",
    "skc_rcv_saddr": "__be32",
    "skc_dport": "__be16",
    "skc_num": "u16",
    "skc_family": "u16",
    "skc_net": "possible_net_t",
    "skc_state": "volatile unsigned char",
    "skc_v6_daddr": "struct in6_addr",
    "skc_v6_rcv_saddr": "struct in6_addr",
}
_SOCK = {"sk_protocol": "u16", "sk_gso_max_segs": "u16", "sk_lingertime": "unsigned long", "sk_wmem_queued": "int"}
_INET_SOCK = {"inet_saddr": "__be32", "inet_sport": "__be16"}
_SK_BUFF = {"cb": "char[48]", "head": "unsigned char *", "network_header": "u16", "transport_header": "u16"}
_TCP_SKB_CB = {"seq": "u32"}
_TCP_SOCK = {"bytes_received": "u64", "bytes_acked": "u64", "srtt_us": "u32"}

_SOCKETS = """\
#pragma once
#include <linux/types.h>
#include <linux/socket.h>
#include <linux/in.h>
#define IPPROTO_TCP 6
#define ntohs(x) __builtin_bswap16(x)
#include <linux/in6.h>
#include <linux/tcp.h>
#define offsetof(type, member) __builtin_offsetof(type, member)
#define AF_INET 2
#define AF_INET6 10
#define TASK_COMM_LEN 16
enum {{ TCP_ESTABLISHED = 1, TCP_SYN_SENT, TCP_SYN_RECV, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_TIME_WAIT, TCP_CLOSE,
       TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_LISTEN, TCP_CLOSING, TCP_NEW_SYN_RECV }};
struct msghdr;
struct page;
{ns_common}
{net}
typedef struct {{ struct net *net; }} possible_net_t;
{sock_common}
{sock}
{inet_sock}
{tcp_sock}
{sk_buff}
{tcp_skb_cb}
#define sk_state __sk_common.skc_state
#define inet_dport inet_sk_common.skc_dport
#define inet_daddr inet_sk_common.skc_daddr
#define inet_sk(sk) ((struct inet_sock *)(sk))
#define tcp_sk(sk) ((struct tcp_sock *)(sk))
"""
_REGISTERS = """\
#pragma once
#if defined(__aarch64__)
struct pt_regs { unsigned long long regs[31], sp, pc, pstate; };
#else
struct pt_regs { unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss; };
#endif
"""


def write_tree(root: Path) -> dict[str, str]:
    """Write the tree under `root`. Return environment variables that point BCC's tools to it and user-space headers."""
    headers.write_tree(root)
    sockets = _SOCKETS.format(
        ns_common=_struct("ns_common", {"inum": "unsigned int"}),
        net=_struct("net", {"ns": "struct ns_common"}),
        sock_common=_struct("sock_common", _SOCK_COMMON),
        sock=_struct("sock", _SOCK, "struct sock_common __sk_common;"),
        inet_sock=_struct("inet_sock", _INET_SOCK, "struct sock_common inet_sk_common;"),
        tcp_sock=_struct("tcp_sock", _TCP_SOCK),
        sk_buff=_struct("sk_buff", _SK_BUFF),
        tcp_skb_cb=_struct("tcp_skb_cb", _TCP_SKB_CB),
    )
    files = {"net/sock.h": sockets, "uapi/linux/ptrace.h": _REGISTERS}
    others = ("inet_sock", "tcp", "tcp_states", "net_namespace")
    files |= dict.fromkeys((f"net/{name}.h" for name in others), "#include <net/sock.h>\n")
    # bcc/proto.h includes these files but declares the types that it needs.
    files |= dict.fromkeys((f"uapi/linux/{name}.h" for name in ("if_ether", "in", "ip", "tcp", "udp")), "")
    for name, text in files.items():
        path = root / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    folders = headers.user_include_flags()[1::2]
    return {"BCC_KERNEL_SOURCE": str(root), "CPATH": ":".join(folders)}


def _struct(name: str, members: Mapping[str, str], first: str = "") -> str:
    """Declare a struct with the declaration `first`, and with these members at their offsets in the running kernel."""
    offsets = {}
    for member, kind in members.items():
        kind, bracket, size = kind.partition("[")  # noqa: PLW2901 (a char[48] is declared as char NAME[48])
        with suppress(LabError):  # not in this kernel: the compiler reports the missing member if a tool reads it
            offsets[f"{kind} {member}{bracket}{size}"] = Btf.of_kernel().field(name, member).offset
    return with_offsets(name, offsets, first)


def with_offsets(name: str, offsets: Mapping[str, int], first: str = "") -> str:
    """Declare a C struct with members at these offsets: a union of packed structs with padding before each member."""
    members = (
        f"struct __attribute__((packed)) {{ char before_{number}[{offset}]; {member}; }};"
        for number, (member, offset) in enumerate(offsets.items())
    )
    return f"struct {name} {{ union {{ {first} {' '.join(members)} }}; }};"
