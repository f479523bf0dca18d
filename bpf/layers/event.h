/* One point on the way of TCP's data from the write() of one application to the read() of the other, as the probe `layers` tells it. */
#pragma once

#include "include/tcp_socket.h"
#include "include/lost.h"

/* Where, in the order of the way (lab/probes/layers/stages.py has the same). */
enum layer_point {
    POINT_WRITE,      /* the application hands data over: a system call, told when it returns */
    POINT_TC_OUT,     /* TC egress: TCP and IP are done with the segment, the queueing discipline gets it */
    POINT_DEVICE_OUT, /* the driver gets it */
    POINT_DEVICE_IN,  /* the network stack gets it from the driver; generic XDP comes next */
    POINT_TC_IN,      /* TC ingress */
    POINT_TCP_IN,     /* TCP gets it from IP */
    POINT_READY,      /* the socket tells its reader that there is data */
    POINT_READ,       /* data is returned to the application: a system call, told when it returns */
};

struct point {
    u64 time_ns;
    u64 enter_ns; /* of a system call: when it was entered */
    u64 awake_ns; /* of a read: when its reader began to copy after it had slept for the last time; 0: it never slept */
    u64 told_ns;  /* of a read: when its reader last came out of a poll or the like in which it had slept; 0: never */
    u8 saddr[16]; /* of who sends the data; network order, IPv4 as ::ffff:a.b.c.d */
    u8 daddr[16];
    u32 netns;  /* inode number of the network namespace in which this is */
    u32 seq;    /* of the data's first byte; at READY of the first that is not there yet */
    u32 length; /* bytes of data */
    u32 tsval;  /* TCP's timestamp (RFC 7323), by which a segment is told from its retransmission; 0: none */
    u16 sport;
    u16 dport;
    u8 at;
    u8 flags; /* of a segment */
    u16 unused;
};

/* As large as that of `analyse`: the points of 20,000 requests a second are 30 MB a second, and a reader can be kept waiting. */
BPF_RINGBUF_OUTPUT(events, 16384);

#ifndef PORT
#define PORT 9999
#endif

static inline bool has_port(u16 sport, u16 dport)
{
    return sport == PORT || dport == PORT;
}

/* Tells whether a socket has the port: most end here. */
static inline bool is_observed(const struct common *common)
{
    u16 lport = 0, rport = 0;

    common_read(&lport, common, FIELD(sock_common, skc_num));
    common_read(&rport, common, FIELD(sock_common, skc_dport));
    return has_port(lport, bpf_ntohs(rport));
}

/* The clock is read when the record has its place in the ring: whoever reads the ring up to its end at a time has every point
 * that was stamped before. */
static inline struct point *new_point(u8 at)
{
    struct point *point = events.ringbuf_reserve(sizeof(struct point));

    if (!point) {
        count_lost();
        return NULL;
    }
    __builtin_memset(point, 0, sizeof(*point));
    point->time_ns = bpf_ktime_get_ns();
    point->at = at;
    return point;
}

/* `sends`: the data goes from the socket's own end to the other. */
static inline void fill_ends(struct point *point, const struct endpoints *ends, bool sends)
{
    __builtin_memcpy(point->saddr, sends ? &ends->laddr : &ends->raddr, sizeof(point->saddr));
    __builtin_memcpy(point->daddr, sends ? &ends->raddr : &ends->laddr, sizeof(point->daddr));
    point->sport = sends ? ends->lport : ends->rport;
    point->dport = sends ? ends->rport : ends->lport;
    point->netns = ends->netns;
}
