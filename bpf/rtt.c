/* The kernel's round-trip times, in histograms.
 *
 * The kernel calls tcp_rcv_established() for each segment of a socket in ESTABLISHED, and processes the acknowledgement
 * afterwards. There are two kinds of histograms:
 * - SRTT: tcp_sock.srtt_us at that time, which is the result of the *previous* segments.
 * - RTT: the single samples that the kernel adds to srtt_us. The kernel does not store them. The program derives each
 *   from the change of srtt_us and mdev_us: see estimate.h.
 *
 * Definitions (-D) group the sockets: lab/probes/rtt/cli.py. A recording groups by connection.
 */
#include "rtt/estimate.h"
#include "include/kernel_functions.h"
#include "include/log2_histogram.h"
#define READ typed_read
#include "include/tcp_socket.h"
#include "include/handshake.h"
#include "include/epochs.h"
#include "include/second_run.h"
#include "include/lost.h"

#ifndef KEEP_SRTT
#define KEEP_SRTT 1
#endif
#ifndef KEEP_RTT
#define KEEP_RTT 1
#endif
#ifndef BY_LADDR
#define BY_LADDR 1
#endif
#ifndef BY_RADDR
#define BY_RADDR 1
#endif
#ifndef BY_PORTS
#define BY_PORTS 1
#endif
#ifndef BUCKET_UNIT_US
#define BUCKET_UNIT_US 1
#endif
#ifndef MOST_KEYS
#define MOST_KEYS 32768
#endif
#ifndef MOST_SOCKETS
#define MOST_SOCKETS 65536
#endif

enum kind { SRTT, RTT };

struct key {
    u32 epoch;
    u32 netns;    /* inode number; 0: not grouped */
    u8 laddr[16]; /* network order; IPv4 as ::ffff:a.b.c.d; this and the others are 0 if not grouped by them */
    u8 raddr[16];
    u16 lport;
    u16 rport;
    /* Each entry has one writer, since a program does not interrupt itself (Linux 6.2). This makes the minimum and the
     * maximum exact: Linux 5.10 has no atomic operation for them. */
    u16 cpu;
    u8 again; /* 1: the second program, which can interrupt the first */
    u8 kind;
};

struct value {
    u64 count;
    u64 sum_us;
    u64 unclear;   /* number of samples with unknown value */
    u64 distorted; /* number of handshake samples that are not of the network (include/handshake.h) */
    u32 min_us;
    u32 max_us;
    u64 slots[LOG2_SLOTS]; /* by powers of two of BUCKET_UNIT_US */
};

BPF_HASH(totals, struct key, struct value, MOST_KEYS);
BPF_ARRAY(nothing, struct value, 1); /* initial value of an entry: too large for the stack */

static inline void fill_key(struct key *key, const struct endpoints *ends, bool again)
{
    key->epoch = current_epoch();
#if BY_LADDR || BY_RADDR || BY_PORTS
    key->netns = ends->netns; /* an address is unique only within its namespace */
#endif
#if BY_LADDR
    __builtin_memcpy(key->laddr, &ends->laddr, sizeof(key->laddr));
#endif
#if BY_RADDR
    __builtin_memcpy(key->raddr, &ends->raddr, sizeof(key->raddr));
#endif
#if BY_PORTS
    key->lport = ends->lport;
    key->rport = ends->rport;
#endif
    key->cpu = bpf_get_smp_processor_id();
    key->again = again;
}

static inline struct value *value_of(struct key *key, enum kind kind)
{
    int only = 0;
    struct value *zero = nothing.lookup(&only);
    struct value *value;

    if (!zero)
        return NULL;
    key->kind = kind;
    value = totals.lookup_or_try_init(key, zero);
    if (!value)
        count_lost();
    return value;
}

static inline void add(struct key *key, enum kind kind, u32 rtt_us)
{
    struct value *value = value_of(key, kind);

    if (!value)
        return;
    if (!value->count || rtt_us < value->min_us)
        value->min_us = rtt_us;
    if (rtt_us > value->max_us)
        value->max_us = rtt_us;
    __sync_fetch_and_add(&value->count, 1);
    __sync_fetch_and_add(&value->sum_us, rtt_us);
    __sync_fetch_and_add(&value->slots[log2_slot(rtt_us / BUCKET_UNIT_US) % LOG2_SLOTS], 1);
}

/* Read a socket's estimate and fill the key of its totals. Return false if the socket is not TCP or does not pass the
 * filters. */
static inline bool read_socket(struct estimate *now, struct key *key, u64 skaddr, bool again)
{
    const void *tcp = tcp_of((const void *)skaddr);
    struct endpoints ends = {};

    if (!tcp)
        return false;
    read_socket_endpoints(&ends, tcp);
    if (!is_chosen(&ends, tcp))
        return false;
    typed_read(&now->srtt_us, tcp, FIELD(tcp_sock, srtt_us));
    typed_read(&now->mdev_us, tcp, FIELD(tcp_sock, mdev_us));
    typed_read(&now->delivered, tcp, FIELD(tcp_sock, delivered));
    fill_key(key, &ends, again);
    return true;
}

#if KEEP_RTT

BPF_HASH(under_way_sockets, u64, struct estimate, MOST_SOCKETS); /* each socket's last estimate */

static inline void add_sample(struct key *key, const struct estimate *before, const struct estimate *now)
{
    u32 rtt_us = 0;
    enum outcome outcome = rtt_sample(before, now, &rtt_us);
    struct value *value;

    if (outcome == SAMPLE) {
        add(key, RTT, rtt_us);
    } else if (outcome == UNCLEAR) {
        value = value_of(key, RTT);
        if (value)
            __sync_fetch_and_add(&value->unclear, 1);
    }
}

static inline void remember(u64 skaddr, struct estimate *now)
{
    if (under_way_sockets.update(&skaddr, now))
        count_lost();
}

static inline int remember_listener(u64 skaddr)
{
    const void *tcp = tcp_of((const void *)skaddr);

    if (tcp && is_watched_tcp(tcp))
        note_listener(tcp);
    return 0;
}

static inline bool is_distorted_sample(u64 skaddr, u32 rtt_us)
{
    const void *tcp = tcp_of((const void *)skaddr);

    return tcp && is_distorted(tcp, rtt_us);
}

static inline void count_distorted(struct key *key)
{
    struct value *value = value_of(key, RTT);

    if (value)
        __sync_fetch_and_add(&value->distorted, 1);
}

/* At the entry of ESTABLISHED, add the handshake's sample. At the exit, add the last segment's. */
static inline int change(struct bpf_raw_tracepoint_args *ctx, bool again)
{
    u64 skaddr = ctx->args[0];
    struct estimate now = {}, unborn = {}, *before;
    struct key key = {};

    if (ctx->args[1] == TCP_LISTEN && ctx->args[2] == TCP_SYN_RECV)
        return remember_listener(skaddr);
    if (ctx->args[1] != TCP_ESTABLISHED && ctx->args[2] != TCP_ESTABLISHED)
        return 0;
    if (!read_socket(&now, &key, skaddr, again))
        return 0;
    if (ctx->args[1] == TCP_ESTABLISHED) {
        before = under_way_sockets.lookup(&skaddr);
        if (!before)
            return 0;
        add_sample(&key, before, &now);
        under_way_sockets.delete(&skaddr);
        return 0;
    }
    if (now.srtt_us) { /* 0: no sample, since the SYN or SYN-ACK was retransmitted */
        if (ctx->args[1] == TCP_SYN_RECV && is_distorted_sample(skaddr, now.srtt_us >> 3))
            count_distorted(&key);
        else
            add_sample(&key, &unborn, &now);
    }
    remember(skaddr, &now);
    return 0;
}

#endif

static inline int segment(u64 skaddr, bool again)
{
    struct estimate now = {};
    struct key key = {};

    if (!read_socket(&now, &key, skaddr, again))
        return 0;
#if KEEP_SRTT
    if (now.srtt_us)
        add(&key, SRTT, now.srtt_us >> 3);
#endif
#if KEEP_RTT
    struct estimate *before = under_way_sockets.lookup(&skaddr);

    if (before) {
        add_sample(&key, before, &now);
        *before = now;
    } else { /* opened before this program was attached: its previous estimate is unknown */
        remember(skaddr, &now);
    }
#endif
    return 0;
}

enum point { AT_CHANGE, AT_SEGMENT };

#if ATTACH_TRACEPOINT

/* Fires at the entry of tcp_rcv_established(). */
ON_TP_BTF(tcp_probe)
{
    first_run(EVENT(tcp_probe), AT_SEGMENT, ctx->args[1], is_held((const void *)ctx->args[0]));
    return segment(ctx->args[0], false);
}

#else

ON_FUNCTION(tcp_rcv_established)
{
    note_run(AT_SEGMENT, ARGUMENT(1), is_held((const void *)ARGUMENT(0)));
    return segment(ARGUMENT(0), false);
}

#endif

#if ATTACH_FENTRY

ON_FUNCTION_AGAIN(tcp_rcv_established)
{
    return rescues(AT_SEGMENT, ARGUMENT(1)) ? segment(ARGUMENT(0), true) : 0;
}

#else

ON_TP_BTF_AGAIN(tcp_probe)
{
    return rescues(AT_SEGMENT, ctx->args[1]) ? segment(ctx->args[0], true) : 0;
}

#endif

#if KEEP_RTT

ON_TP_BTF(inet_sock_set_state)
{
    first_run(EVENT(inet_sock_set_state), AT_CHANGE, change_key(ctx), is_held((const void *)ctx->args[0]));
    return change(ctx, false);
}

ON_TP_BTF_AGAIN(inet_sock_set_state)
{
    return rescues(AT_CHANGE, change_key(ctx)) ? change(ctx, true) : 0;
}

#endif
