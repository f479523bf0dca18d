/* TCP sockets: their states, and who talks to whom. */
#pragma once

#include "include/address.h"
#include "include/kernel_read.h"
#include "include/netns_filter.h"
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/tcp.h>

#define AF_INET 2
#define AF_INET6 10

/* As in include/net/tcp_states.h; the names that Python shows are in lab/tcp.py. */
enum tcp_state {
    TCP_ESTABLISHED = 1,
    TCP_SYN_SENT,
    TCP_SYN_RECV,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_TIME_WAIT,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_CLOSING,
};

struct endpoints {
    struct address laddr;
    struct address raddr;
    u32 netns;
    u16 lport; /* host order */
    u16 rport; /* host order */
};

/* The beginning of a socket of any kind, full ones, minisocks and request sockets: a copy up to the last member that is read, which
 * costs less than a copy for each member, or where the verifier knows its type, or can be told, the socket itself. */
struct common {
    const void *sk;
    bool copied;
    u8 bytes[offset_of(FIELD(sock_common, skc_v6_rcv_saddr)) + 16];
};

#define common_read(to, common, field) COMMON_READ(to, common, field)
#define COMMON_READ(to, common, offset, size, type)                                                                    \
    ({                                                                                                                 \
        if ((common)->copied)                                                                                          \
            READ_COPIED(to, (common)->bytes, 0, offset, size, type);                                                   \
        else                                                                                                           \
            TYPED_READ(to, (common)->sk, offset, size, type);                                                          \
    })

static inline void copy_common(struct common *common, const void *sk)
{
#if LOADS
    common->sk = rdonly_cast(sk, TYPE__sock_common);
    common->copied = false;
#else
    bpf_probe_read_kernel(common->bytes, sizeof(common->bytes), sk);
    common->copied = true; /* behind the call, which could change it for all that the compiler knows */
#endif
}

static inline void see_common(struct common *common, const void *sk)
{
#if TYPED
    common->sk = sk;
    common->copied = false;
#else
    copy_common(common, sk);
#endif
}

static inline void read_endpoints(struct endpoints *to, const struct common *common)
{
    void *net = NULL;
    u32 local = 0, remote = 0;
    u16 family = 0, port = 0;

    common_read(&family, common, FIELD(sock_common, skc_family));
    common_read(&net, common, FIELD(sock_common, skc_net));
    if (common->copied)
        kernel_read(&to->netns, net, FIELD(net, ns, inum));
    else
        typed_read(&to->netns, net, FIELD(net, ns, inum));
    common_read(&to->lport, common, FIELD(sock_common, skc_num));
    common_read(&port, common, FIELD(sock_common, skc_dport));
    to->rport = bpf_ntohs(port);
    if (family == AF_INET6) {
        common_read(&to->laddr, common, FIELD(sock_common, skc_v6_rcv_saddr));
        common_read(&to->raddr, common, FIELD(sock_common, skc_v6_daddr));
    } else {
        common_read(&local, common, FIELD(sock_common, skc_rcv_saddr));
        common_read(&remote, common, FIELD(sock_common, skc_daddr));
        map_ipv4(&to->laddr, local);
        map_ipv4(&to->raddr, remote);
    }
}

/* A full socket's. Either side's port may still be zero: the local one before connect() has bound it, the remote one of a
 * passive child before inet_csk_clone_lock() has copied it. */
static inline void read_socket_endpoints(struct endpoints *to, const void *tcp)
{
    struct common common;
    u16 port = 0;

    if (READS_COPIES)
        copy_common(&common, tcp);
    else
        see_common(&common, tcp);
    read_endpoints(to, &common);
    /* Not skc_num: inet_put_port() has cleared that when a socket arrives in CLOSE. */
    READ(&port, tcp, FIELD(inet_sock, inet_sport));
    to->lport = bpf_ntohs(port);
}

/* TCP_CLOSE from FIN_WAIT2 or CLOSING is mostly no end but the hand-over of tcp_time_wait(). */
static inline u8 state_after(const void *tcp, u8 oldstate, u8 newstate)
{
    int error = 0, linger2 = 0;
    unsigned long flags = 0;

    if (newstate != TCP_CLOSE || (oldstate != TCP_FIN_WAIT2 && oldstate != TCP_CLOSING))
        return newstate;
    READ(&error, tcp, FIELD(sock, sk_err));
    if (error) /* tcp_reset() and tcp_abort() set it before tcp_done() */
        return TCP_CLOSE;
    READ(&flags, tcp, FIELD(sock_common, skc_flags));
    if (has_flag(flags, ENUM(sock_flags, SOCK_DONE))) /* tcp_fin() has seen the peer's FIN */
        return TCP_TIME_WAIT;
    /* Only an orphan is handed over before the peer's FIN: close() with unread data or SO_LINGER 0 resets instead. */
    if (!has_flag(flags, ENUM(sock_flags, SOCK_DEAD)))
        return TCP_CLOSE;
    READ(&linger2, tcp, FIELD(tcp_sock, linger2));
    if (linger2 < 0) /* TCP_LINGER2 below zero asks for no FIN_WAIT2 at all */
        return TCP_CLOSE;
    return TCP_FIN_WAIT2;
}

/* On leaving SYN_RECV: from SYN-ACK to ACK as the kernel has measured it, 0 when it has not. */
static inline u32 handshake_rtt_us(const void *tcp)
{
    u32 retransmits = 0, srtt_us = 0;

    /* tcp_check_req() has made the first sample; a retransmitted SYN-ACK makes it ambiguous. */
    READ(&retransmits, tcp, FIELD(tcp_sock, total_retrans));
    READ(&srtt_us, tcp, FIELD(tcp_sock, srtt_us));
    return retransmits ? 0 : srtt_us >> 3;
}

/* SCTP and MPTCP come to some of the same tracepoints, and so do sockets that are none of IP's. */
static inline bool is_tcp(const void *sk)
{
    u16 family = 0, protocol = 0;

    READ(&family, sk, FIELD(sock_common, skc_family));
    if (family != AF_INET && family != AF_INET6)
        return false;
    READ(&protocol, sk, FIELD(sock, sk_protocol));
    return protocol == IPPROTO_TCP;
}

/* A full socket of TCP as what it is, which the verifier wants to be told before members of tcp_sock and inet_sock are loaded. NULL: it is
 * none. */
static inline const void *tcp_of(const void *sk)
{
    if (!is_tcp(sk))
        return NULL;
#if READS_COPIES
    return sk;
#else
    return bpf_skc_to_tcp_sock((void *)sk);
#endif
}

static inline bool is_watched_tcp(const void *sk)
{
    const void *net = NULL;

    if (!is_tcp(sk))
        return false;
    READ(&net, sk, FIELD(sock_common, skc_net));
    return is_watched(netns_of(net));
}

/* lock_sock() marks the socket while a thread works on it. Softirq code touches it only when that mark is not set, so with the mark the
 * current task is the owner at work and without it any bystander. */
static inline bool is_held(const void *sk)
{
    int owned = 0;

    READ(&owned, sk, FIELD(sock, sk_lock, owned));
    return owned;
}
