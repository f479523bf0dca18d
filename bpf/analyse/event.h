/* One step of a connection, as the probe `analyse` reports it: what was observed, where, and of which socket. */
#pragma once

#include "include/tcp_socket.h"
#include "include/lost.h"

/* What was observed: a system call, which is reported when it is entered and when it returns, or what the kernel does. */
enum kind {
    KIND_CONNECT,
    KIND_ACCEPT,
    KIND_SEND,
    KIND_RECEIVE,
    KIND_SHUTDOWN,
    KIND_CLOSE,
    KIND_OPENED,    /* the kernel begins an active open */
    KIND_SENT,      /* TCP has taken the application's data */
    KIND_RECEIVED,  /* data is returned to the application */
    KIND_ARRIVED,   /* a segment has reached TCP */
    KIND_PROCESSED, /* receive processing of an established connection, state processing of another */
    KIND_CHANGED,   /* the socket has changed its state */
    KIND_DESTROYED, /* what lives at this address from now on is another socket */
};

/* Where: each name behind `AT_` is that of the system call, function, tracepoint or hook (lab/probes/analyse/measure.py reads it here). */
enum point {
    AT_connect,
    AT_accept,
    AT_accept4,
    AT_sendto,
    AT_sendmsg,
    AT_sendmmsg,
    AT_write,
    AT_writev,
    AT_recvfrom,
    AT_recvmsg,
    AT_recvmmsg,
    AT_read,
    AT_readv,
    AT_shutdown,
    AT_close,
    AT_tcp_v4_connect,
    AT_tcp_v6_connect,
    AT_tcp_sendmsg,
    AT_tcp_recvmsg,
    AT_tcp_v4_rcv,
    AT_tcp_v6_rcv,
    AT_tcp_rcv_established,
    AT_tcp_rcv_state_process,
    AT_sock_send_length,
    AT_sock_recv_length,
    AT_cgroup_skb_ingress,
    AT_tcp_probe,
    AT_inet_sock_set_state,
    AT_tcp_destroy_sock,
    AT_tcp_sendpage,
};

struct step {
    u64 time_ns;
    u64 enter_ns; /* when the call was entered that this step ends; 0: it ends none */
    u64 skaddr;   /* 0: the socket is not known */
    u64 listener; /* where accept() has taken the socket from */
    u64 skb;      /* the packet's kernel address, where receive processing is observed */
    u8 laddr[16]; /* network order; IPv4 as ::ffff:a.b.c.d */
    u8 raddr[16];
    u32 netns; /* inode number of the network namespace */
    u32 tgid;  /* 0: softirq, where the current task is any bystander */
    u32 tid;
    int result; /* what the call returns */
    u32 seq;    /* of a segment, with the bytes it carries */
    u32 length;
    u32 handshake_us; /* SYN-ACK sent to ACK received, on leaving SYN_RECV; 0: not measured by the kernel */
    u32 lost;         /* events lost before this one: across a loss nobody can tell which socket has the address */
    u16 lport;
    u16 rport;
    u8 kind;
    u8 point;
    u8 returns;  /* the step is the end of a call */
    u8 again;    /* by the second program: rarely, the first has reported the same step as well */
    u8 oldstate; /* 0: the step is no change */
    u8 state;    /* by then; 0: not known */
    u8 flags;    /* of a segment, as in its header's 14th byte */
    char comm[16];
};

/* A busy machine makes 100,000 steps a second and more, and a reader can be kept waiting. */
BPF_RINGBUF_OUTPUT(events, 16384);

/* The clock is read when the record has its place in the ring. So whoever reads the ring up to its end at a time has every
 * step that was stamped before. */
static inline struct step *new_step(u8 kind, u8 point)
{
    struct step *step = events.ringbuf_reserve(sizeof(struct step));

    if (!step) {
        count_lost();
        return NULL;
    }
    __builtin_memset(step, 0, sizeof(*step));
    step->time_ns = bpf_ktime_get_ns();
    step->lost = lost_so_far();
    step->kind = kind;
    step->point = point;
    return step;
}

/* The current task is at work on the socket itself: only for what never happens in softirq. */
static inline void fill_owner(struct step *step)
{
    u64 thread = bpf_get_current_pid_tgid();

    step->tgid = thread >> 32;
    step->tid = thread;
    bpf_get_current_comm(step->comm, sizeof(step->comm));
}

static inline void fill_endpoints(struct step *step, const struct endpoints *from)
{
    __builtin_memcpy(step->laddr, &from->laddr, sizeof(step->laddr));
    __builtin_memcpy(step->raddr, &from->raddr, sizeof(step->raddr));
    step->netns = from->netns;
    step->lport = from->lport;
    step->rport = from->rport;
}

static inline void fill_socket(struct step *step, const void *sk)
{
    struct endpoints endpoints = {};

    step->skaddr = (u64)sk;
    kernel_read(&step->state, sk, FIELD(sock_common, skc_state));
    read_socket_endpoints(&endpoints, sk);
    fill_endpoints(step, &endpoints);
}
