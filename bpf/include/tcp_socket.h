/* TCP sockets: their states, endpoints, lock and network namespace. */
#pragma once

#include "include/address.h"
#include "include/kernel_read.h"
#define BY_NETNS 1
#include "include/choice.h"
#include "include/netns.h"
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/tcp.h>

#define AF_INET 2
#define AF_INET6 10

/* As in include/net/tcp_states.h. The names that the tools print are in lab/tcp.py. */
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

/* struct sock_common, the beginning of full sockets, minisocks and request sockets.
 * - `copied`: `bytes` holds a copy up to the last member that is read. One copy costs less than one for each member.
 * - Otherwise `sk` is the socket. The verifier knows its type, or rdonly_cast() has set it. */
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

/* For a socket whose type the verifier does not know. */
static inline void copy_common(struct common *common, const void *sk)
{
#if LOADS
    common->sk = rdonly_cast(sk, TYPE__sock_common);
    common->copied = false;
#else
    bpf_probe_read_kernel(common->bytes, sizeof(common->bytes), sk);
    common->copied = true; /* after the call: the compiler must assume that the call changes it */
#endif
}

/* For a socket whose type the verifier knows. */
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

/* The endpoints of a full socket. Ports can be 0: the local one until connect() binds it, the remote one of a passive
 * child until inet_csk_clone_lock() copies it. */
static inline void read_socket_endpoints(struct endpoints *to, const void *tcp)
{
    struct common common;
    u16 port = 0;

    if (READS_COPIES)
        copy_common(&common, tcp);
    else
        see_common(&common, tcp);
    read_endpoints(to, &common);
    /* Not skc_num: inet_put_port() clears it before the socket enters CLOSE. */
    READ(&port, tcp, FIELD(inet_sock, inet_sport));
    to->lport = bpf_ntohs(port);
}

/* Return true if a full socket belongs to the chosen cgroup or one below it. A socket belongs to the cgroup of the process
 * that created it; the socket of a passive open, to that of its listener (sk_clone_lock()). */
static inline bool is_in_cgroup(const struct choice *chosen, const void *sk)
{
#if TELLS_CGROUP
    const void *cgroup = NULL, *node = NULL;
    u64 id = 0;

    if (!chosen->cgroup)
        return true;
    if (!sk)
        return false;
    kernel_read(&cgroup, sk, FIELD(sock, sk_cgrp_data, cgroup));
#pragma unroll
    for (int level = 0; level < MOST_CGROUPS; level++) {
        kernel_read(&node, cgroup, FIELD(cgroup, kn));
        kernel_read(&id, node, FIELD(kernfs_node, id));
        if (id == chosen->cgroup)
            return true;
        kernel_read(&cgroup, cgroup, FIELD(cgroup, self, parent));
        if (!cgroup)
            return false;
        cgroup -= offset_of(FIELD(cgroup, self));
    }
    return false;
#else
    return true;
#endif
}

/* Return true if the program observes this full socket in this namespace. */
static inline bool is_watched_socket(u32 netns, const void *sk)
{
    const struct choice *chosen = current_choice();

    return !chosen || (is_chosen_netns(chosen, netns) && is_in_cgroup(chosen, sk));
}

/* Return true if the program observes what has these ends, in this namespace. `sk`: its full socket, NULL without one. */
static inline bool is_chosen_flow(u32 netns, const struct address *local, u16 lport, const struct address *remote,
                                  u16 rport, const void *sk)
{
    const struct choice *chosen = current_choice();

    return !chosen || (is_chosen_netns(chosen, netns) && are_chosen_ends(chosen, local, lport, remote, rport) &&
                       is_in_cgroup(chosen, sk));
}

/* Return true if the program observes this full socket with these ends. */
static inline bool is_chosen(const struct endpoints *ends, const void *sk)
{
    return is_chosen_flow(ends->netns, &ends->laddr, ends->lport, &ends->raddr, ends->rport, sk);
}

/* Return the connection's state after a change of its socket. TCP_CLOSE from FIN_WAIT2 or CLOSING mostly means that
 * tcp_time_wait() has handed the connection over to a minisock. */
static inline u8 state_after(const void *tcp, u8 oldstate, u8 newstate)
{
    int error = 0, linger2 = 0;
    unsigned long flags = 0;

    if (newstate != TCP_CLOSE || (oldstate != TCP_FIN_WAIT2 && oldstate != TCP_CLOSING))
        return newstate;
    READ(&error, tcp, FIELD(sock, sk_err));
    if (error) /* set by tcp_reset() and tcp_abort() before tcp_done() */
        return TCP_CLOSE;
    READ(&flags, tcp, FIELD(sock_common, skc_flags));
    if (has_flag(flags, ENUM(sock_flags, SOCK_DONE))) /* set by tcp_fin(): the peer's FIN has arrived */
        return TCP_TIME_WAIT;
    /* Before the peer's FIN only an orphan gets a minisock: close() with unread data or SO_LINGER 0 sends a RST. */
    if (!has_flag(flags, ENUM(sock_flags, SOCK_DEAD)))
        return TCP_CLOSE;
    READ(&linger2, tcp, FIELD(tcp_sock, linger2));
    if (linger2 < 0) /* TCP_LINGER2 below 0: no FIN_WAIT2 */
        return TCP_CLOSE;
    return TCP_FIN_WAIT2;
}

/* Return true for a TCP socket. SCTP, MPTCP and sockets of other families reach some of the same tracepoints. */
static inline bool is_tcp(const void *sk)
{
    u16 family = 0, protocol = 0;

    READ(&family, sk, FIELD(sock_common, skc_family));
    if (family != AF_INET && family != AF_INET6)
        return false;
    READ(&protocol, sk, FIELD(sock, sk_protocol));
    return protocol == IPPROTO_TCP;
}

/* Return true if a TCP socket is a subflow of an MPTCP connection. */
static inline bool is_subflow(const void *tcp)
{
    bool is_mptcp = false;

#ifdef OFFSET__tcp_sock__is_mptcp /* a kernel with CONFIG_MPTCP */
    READ(&is_mptcp, tcp, FIELD(tcp_sock, is_mptcp));
#endif
    return is_mptcp;
}

/* Return a full TCP socket with the type tcp_sock, NULL for any other socket. The verifier requires the type for loads
 * of members of tcp_sock and inet_sock. */
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

/* Return true if a thread holds the socket's lock (lock_sock()). Softirq code works only on sockets that are not held.
 * If the socket is held, the current task is therefore the thread that works on it. If not, it can be any task.
 * `typed`: the verifier knows the type of `sk`. */
static inline bool is_lock_held(const void *sk, bool typed)
{
    int owned = 0;

    if (typed)
        typed_read(&owned, sk, FIELD(sock, sk_lock, owned));
    else
        kernel_read(&owned, sk, FIELD(sock, sk_lock, owned));
    return owned;
}

/* is_lock_held() for a socket that READ can read. */
static inline bool is_held(const void *sk)
{
    return is_lock_held(sk, !READS_COPIES);
}
