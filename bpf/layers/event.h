/* The event of the probe `layers`: TCP data at one stage between one application's write() and the other's read(). */
#pragma once

#ifndef PORT
#define PORT 9999
#endif
#include "include/tcp_socket.h"
#include "include/ring.h"

/* The stages, in the order of the data's way. lab/probes/layers/stages.py has the same list. */
enum layer_point {
    POINT_WRITE,      /* a system call takes data from the application; reported when it returns */
    POINT_TC_OUT,     /* TC egress: after TCP and IP, before the queueing discipline */
    POINT_DEVICE_OUT, /* the driver gets the segment */
    POINT_DEVICE_IN,  /* the network stack gets it from the driver; before generic XDP */
    POINT_TC_IN,      /* TC ingress */
    POINT_TCP_IN,     /* TCP gets the segment from IP */
    POINT_READY,      /* the socket announces data to its reader (sk_data_ready) */
    POINT_READ,       /* a system call returns data to the application; reported when it returns */
};

/* What a segment is to the socket that sends it (TC_OUT) or receives it (TCP_IN). */
enum of_socket {
    NO_SOCKET, /* forwarded */
    OLD_DATA,  /* sent or received before, or no data */
    NEW_DATA,
};

/* Why the bytes of a segment cannot be divided into requests. */
enum multiplexed {
    NOT_KNOWN,
    BY_HTTP_2, /* the segment begins the connection */
    BY_MPTCP,  /* the segment is one of a subflow, which has only a part of the bytes */
};

struct point {
    u64 time_ns;
    u64 enter_ns; /* of a system call: its entry */
    u64 awake_ns; /* of a read: first copy after the reader's last sleep; 0: it did not sleep */
    u64 woken_ns; /* of a read: when this socket last ended a thread's wait in poll() or a similar call; 0: never */
    u64 told_ns;  /* of a read: when that wait returned */
    u8 saddr[16]; /* of the data's sender; network order, IPv4 as ::ffff:a.b.c.d */
    u8 daddr[16];
    u32 netns;  /* inode number of the network namespace */
    u32 seq;    /* of the first byte of data; at READY that of the next byte to arrive */
    u32 length; /* bytes of data */
    u32 tsval;  /* TCP timestamp (RFC 7323), distinguishes a segment from its retransmission; 0: none */
    u16 sport;
    u16 dport;
    u8 at;
    u8 flags;       /* of a segment */
    u8 multiplexed; /* enum multiplexed */
    u8 of_socket;   /* at TC_OUT and TCP_IN: enum of_socket */
};

/* In pages. 20,000 requests a second make 30 MB of points a second, and the reader can be delayed. */
BPF_RINGBUF_OUTPUT(events, 16384);

/* Return true if the socket has the port. Most sockets do not. */
static inline bool is_observed(const struct common *common)
{
    u16 lport = 0, rport = 0;

    common_read(&lport, common, FIELD(sock_common, skc_num));
    common_read(&rport, common, FIELD(sock_common, skc_dport));
    return have_chosen_port(current_choice(), lport, bpf_ntohs(rport));
}

/* Reserve a point in the ring and stamp it; NULL if the ring is full. The clock is read after the reservation: a reader
 * that reads all rings to their ends at time t gets every point with a stamp before t. */
static inline struct point *new_point(u8 at)
{
    struct point *point = reserve(sizeof(struct point));

    if (!point) {
        count_lost();
        return NULL;
    }
    __builtin_memset(point, 0, sizeof(*point));
    point->time_ns = bpf_ktime_get_ns();
    point->at = at;
    return point;
}

/* `sends`: the data goes from the local end to the remote one. */
static inline void fill_ends(struct point *point, const struct endpoints *ends, bool sends)
{
    __builtin_memcpy(point->saddr, sends ? &ends->laddr : &ends->raddr, sizeof(point->saddr));
    __builtin_memcpy(point->daddr, sends ? &ends->raddr : &ends->laddr, sizeof(point->daddr));
    point->sport = sends ? ends->lport : ends->rport;
    point->dport = sends ? ends->rport : ends->lport;
    point->netns = ends->netns;
}
