/* TCP state changes of every socket on the machine.
 *
 * sock:inet_sock_set_state reports the changes of full sockets. The program adds three things that it does not report:
 * - An active close ends in a timewait minisock, which the tracepoint reports as CLOSE. state_after() derives whether
 *   the connection is in TIME_WAIT or still in FIN_WAIT2 (tcp_time_wait()).
 * - In FIN_WAIT2 the peer's FIN reaches the minisock. tcp_timewait_state_process() consumes the segment and frees it:
 *   skb:kfree_skb.
 * - Anything else that ends the minisock in FIN_WAIT2 removes its timer (inet_twsk_deschedule_put()), or is its timer
 *   (tw_timer_handler()): a RST, data, `ss -K`, tcp_fin_timeout. timer:timer_cancel.
 */
#define READ typed_read
#include "include/tcp_socket.h"
#include "include/file.h"
#include "include/handshake.h"
#include "include/task.h"
#include "include/second_run.h"
#include "include/ring.h"
#include <linux/ip.h>
#include <linux/ipv6.h>

/* A change of a socket's state, a FIN that a minisock has consumed, or the end of a minisock's timer. */
struct state_change {
    u64 time_ns;
    u64 skaddr;   /* 0: observed at a minisock, whose address differs from its socket's */
    u8 laddr[16]; /* network order; IPv4 as ::ffff:a.b.c.d */
    u8 raddr[16];
    u32 netns;            /* inode number of the network namespace */
    u32 tgid;             /* process whose system call made the change; 0: unknown */
    u32 tid;              /* its thread */
    u32 handshake_rtt_us; /* SYN-ACK sent to ACK received, on leaving SYN_RECV; 0: not measured; CREATED_BY_SYN */
    u32 lost;             /* events lost before this one: after a loss the address can be that of another socket */
    u16 lport;
    u16 rport;
    u8 again; /* 1: reported by the second program, in rare cases in addition to the first */
    u8 oldstate;
    u8 newstate;
    u8 closed; /* 1: the process has released the last reference to the socket's file */
    char comm[16];
    char thread[16];
};

BPF_RINGBUF_OUTPUT(events, 4096);

#define SHUTDOWN_MASK 3 /* include/net/sock.h */

enum point { AT_CHANGE, AT_FREE };

static inline struct state_change *new_change(u64 time_ns, u8 oldstate, u8 newstate, bool again)
{
    struct state_change *change = reserve(sizeof(struct state_change));

    if (!change) {
        count_lost();
        return NULL;
    }
    __builtin_memset(change, 0, sizeof(*change));
    change->time_ns = time_ns;
    change->oldstate = oldstate;
    change->newstate = newstate;
    change->lost = lost_so_far();
    change->again = again;
    return change;
}

static inline void fill_endpoints(struct state_change *change, const struct endpoints *from)
{
    __builtin_memcpy(change->laddr, &from->laddr, sizeof(change->laddr));
    __builtin_memcpy(change->raddr, &from->raddr, sizeof(change->raddr));
    change->netns = from->netns;
    change->lport = from->lport;
    change->rport = from->rport;
}

/* Return true if only a process that holds the socket's file makes this change, for a socket whose lock the current task
 * holds. Any task can hold the lock: `ss -K`, a worker of MPTCP, and `ss -i`, which then processes the segments that
 * came meanwhile (__release_sock()). */
static inline bool is_by_owner(const void *tcp, u8 oldstate, u8 newstate)
{
    unsigned long flags = 0;
    int error = 0;
    u8 shut = 0;

    if (is_kernel_thread(current_task()))
        return false;
    switch (newstate) {
    case TCP_SYN_SENT:
    case TCP_LISTEN:
    case TCP_FIN_WAIT1:
    case TCP_LAST_ACK: /* tcp_close_state() in close() and shutdown() */
        return true;
    case TCP_CLOSE:
        break;
    default:
        return false;
    }
    if (oldstate == TCP_LAST_ACK || oldstate == TCP_CLOSING)
        return false;
    if (oldstate == TCP_LISTEN) { /* tcp_abort() sets no error here. close() has set both directions of sk_shutdown */
        READ(&shut, tcp, FIELD(sock, sk_shutdown));
        return shut == SHUTDOWN_MASK;
    }
    /* A RST, a timeout and tcp_abort() set sk_err before. close() and connect(AF_UNSPEC) do not. */
    READ(&error, tcp, FIELD(sock, sk_err));
    READ(&flags, tcp, FIELD(sock_common, skc_flags));
    return !error && !has_flag(flags, ENUM(sock_flags, SOCK_DEAD));
}

/* Return true if the last reference to the socket's file has been released: __fput() closes the socket. */
static inline bool is_closing(const void *tcp)
{
    const void *socket = NULL, *file = NULL;

    READ(&socket, tcp, FIELD(sock, sk_socket));
    if (socket)
        kernel_read(&file, socket, FIELD(socket, file));
    return file && references_to(file) <= 0;
}

/* Note the current task as the one that makes the change. The process has the name of its first thread. */
static inline void fill_owner(struct state_change *change, const void *tcp)
{
    const void *task = current_task(), *leader = NULL;

    task_read(&leader, task, FIELD(task_struct, group_leader));
    view_pids(task, leader, &change->tgid, &change->tid);
    change->closed = is_closing(tcp);
    read_name(change->comm, leader);
    read_own_name(change->thread, task);
}

/* Return the local port that the socket has bound, 0 if none. */
static inline u16 bound_port(const void *tcp)
{
    u16 port = 0;

    READ(&port, tcp, FIELD(sock_common, skc_num));
    return port;
}

static inline int report_change(struct bpf_raw_tracepoint_args *ctx, bool again)
{
    u64 time_ns = bpf_ktime_get_ns();
    const void *tcp = tcp_of((const void *)ctx->args[0]);
    u8 oldstate = ctx->args[1], newstate;
    struct endpoints endpoints = {};
    struct state_change *change;

    if (!tcp)
        return 0;
    read_socket_endpoints(&endpoints, tcp);
    if (!is_watched_socket(endpoints.netns, tcp))
        return 0;
    if (oldstate == TCP_LISTEN && ctx->args[2] == TCP_SYN_RECV)
        note_listener(tcp);
    newstate = state_after(tcp, oldstate, ctx->args[2]);
    /* A minisock continues in FIN_WAIT2, and close() after shutdown() enters it again: no change. */
    if (oldstate == newstate)
        return 0;
    change = new_change(time_ns, oldstate, newstate, again);
    if (!change)
        return 0;
    change->skaddr = (u64)tcp;
    fill_endpoints(change, &endpoints);
    if (newstate == TCP_SYN_SENT) /* inet_sport keeps the port of an earlier connection until connect() has bound one */
        change->lport = bound_port(tcp);
    if (is_held(tcp) && is_by_owner(tcp, oldstate, newstate))
        fill_owner(change, tcp);
    if (oldstate == TCP_SYN_RECV)
        change->handshake_rtt_us = handshake_rtt_us(tcp, newstate);
    events.ringbuf_submit(change, BPF_RB_NO_WAKEUP);
    return 0;
}

ON_TP_BTF(inet_sock_set_state)
{
    first_run(EVENT(inet_sock_set_state), AT_CHANGE, change_key(ctx), is_held((const void *)ctx->args[0]));
    return report_change(ctx, false);
}

ON_TP_BTF_AGAIN(inet_sock_set_state)
{
    return rescues(AT_CHANGE, change_key(ctx)) ? report_change(ctx, true) : 0;
}

/* Return true if the freed packet was, or can have been, for a minisock. kfree_skb carries the socket since Linux 6.11
 * and the drop reason since 5.17. On older kernels the program also reports FINs of other sockets. The reader discards
 * those without a pending wait. */
static inline bool for_minisock(struct bpf_raw_tracepoint_args *ctx)
{
#if TRACEPOINT_ARGS(kfree_skb) >= 4
    const void *sk = (const void *)ctx->args[3];
    u8 state = 0;

    if (!sk)
        return false;
    kernel_read(&state, sk, FIELD(sock_common, skc_state));
    return state == TCP_TIME_WAIT;
#elif TRACEPOINT_ARGS(kfree_skb) == 3
    return ctx->args[2] == ENUM(skb_drop_reason, SKB_DROP_REASON_NOT_SPECIFIED);
#else
    return true;
#endif
}

/* Return true if the segment is a FIN that tcp_timewait_state_process() accepted: it has left FIN_WAIT2. */
static inline bool is_accepted_fin(struct bpf_raw_tracepoint_args *ctx, const struct tcphdr *tcp)
{
    u8 substate = TCP_TIME_WAIT;

#if TRACEPOINT_ARGS(kfree_skb) >= 4
    const void *sk = (const void *)ctx->args[3];

    if (sk)
        kernel_read(&substate, sk, FIELD(inet_timewait_sock, tw_substate));
#endif
    return tcp->fin && !tcp->rst && substate == TCP_TIME_WAIT;
}

static inline int report_minisock(struct bpf_raw_tracepoint_args *ctx, bool again)
{
    u64 time_ns;
    const void *skb = (const void *)ctx->args[0];
    struct state_change *change;
    struct tcphdr tcp = {};
    u16 network = 0, transport = 0, protocol = 0;
    void *head = NULL;
    struct endpoints endpoints = {};

    if (!for_minisock(ctx))
        return 0;
    time_ns = bpf_ktime_get_ns();
    typed_read(&protocol, skb, FIELD(sk_buff, protocol));
    typed_read(&head, skb, FIELD(sk_buff, head));
    typed_read(&network, skb, FIELD(sk_buff, network_header));
    typed_read(&transport, skb, FIELD(sk_buff, transport_header));
    if (protocol == bpf_htons(ETH_P_IP)) {
        struct iphdr ip = {};

        bpf_probe_read_kernel(&ip, sizeof(ip), head + network);
        if (ip.protocol != IPPROTO_TCP)
            return 0;
        map_ipv4(&endpoints.raddr, ip.saddr);
        map_ipv4(&endpoints.laddr, ip.daddr);
    } else if (protocol == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr ip = {};

        bpf_probe_read_kernel(&ip, sizeof(ip), head + network);
        /* A packet of a minisock is TCP. Without the socket, segments with extension headers are not reported. */
        if (TRACEPOINT_ARGS(kfree_skb) < 4 && ip.nexthdr != IPPROTO_TCP)
            return 0;
        __builtin_memcpy(&endpoints.raddr, &ip.saddr, sizeof(endpoints.raddr));
        __builtin_memcpy(&endpoints.laddr, &ip.daddr, sizeof(endpoints.laddr));
    } else {
        return 0;
    }
    bpf_probe_read_kernel(&tcp, sizeof(tcp), head + transport);
    if (!is_accepted_fin(ctx, &tcp))
        return 0;
    endpoints.lport = bpf_ntohs(tcp.dest);
    endpoints.rport = bpf_ntohs(tcp.source);
    endpoints.netns = netns_of_packet(skb);
    if (!is_watched(endpoints.netns))
        return 0;
    change = new_change(time_ns, TCP_FIN_WAIT2, TCP_TIME_WAIT, again);
    if (!change)
        return 0;
    fill_endpoints(change, &endpoints);
    events.ringbuf_submit(change, BPF_RB_NO_WAKEUP);
    return 0;
}

ON_TP_BTF(kfree_skb)
{
    first_run(EVENT(kfree_skb), AT_FREE, ctx->args[0], false);
    return report_minisock(ctx, false);
}

ON_TP_BTF_AGAIN(kfree_skb)
{
    return rescues(AT_FREE, ctx->args[0]) ? report_minisock(ctx, true) : 0;
}

/* The timer of a minisock in FIN_WAIT2 is removed, or expires. The event does not name the timer's owner. Other owners
 * rarely look like a minisock, and the reader discards events without a pending wait. Interrupts are off here
 * (lock_timer_base(), expire_timers()), so the program does not interrupt itself. */
ON_RAW_TRACEPOINT_UNAUDITED(timer_cancel)
{
    u64 time_ns;
    const void *sk = (const void *)ctx->args[0] - offset_of(FIELD(inet_timewait_sock, tw_timer));
    struct common common;
    struct endpoints endpoints = {};
    struct state_change *change;
    u16 family = 0;
    u8 state = 0, substate = 0;

    kernel_read(&state, sk, FIELD(sock_common, skc_state));
    if (state != TCP_TIME_WAIT)
        return 0;
    time_ns = bpf_ktime_get_ns();
    kernel_read(&substate, sk, FIELD(inet_timewait_sock, tw_substate));
    copy_common(&common, sk);
    common_read(&family, &common, FIELD(sock_common, skc_family));
    if (substate != TCP_FIN_WAIT2 || (family != AF_INET && family != AF_INET6))
        return 0;
    read_endpoints(&endpoints, &common);
    if (!is_watched(endpoints.netns))
        return 0;
    change = new_change(time_ns, TCP_FIN_WAIT2, TCP_CLOSE, false);
    if (!change)
        return 0;
    fill_endpoints(change, &endpoints);
    events.ringbuf_submit(change, BPF_RB_NO_WAKEUP);
    return 0;
}
