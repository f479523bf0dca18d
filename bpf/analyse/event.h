/* The event of the probe `analyse`: a step of a connection, with its kind, attach point and socket. */
#pragma once

#include "include/task.h"
#include "include/tcp_socket.h"
#include "include/ring.h"

#define MSG_PEEK 2 /* recv() leaves the data in the socket */
#define MSG_ERRQUEUE 0x2000

/* Kinds of steps: system calls, with one step at the entry and one at the return, and work of the kernel. */
enum kind {
    KIND_CONNECT,
    KIND_ACCEPT,
    KIND_SEND,
    KIND_RECEIVE,
    KIND_SHUTDOWN,
    KIND_CLOSE,
    KIND_OPENED,    /* an active open begins */
    KIND_SENT,      /* TCP accepted data from the application */
    KIND_RECEIVED,  /* TCP returned data to the application */
    KIND_ARRIVED,   /* a segment reached TCP */
    KIND_PROCESSED, /* receive processing (established connection) or state processing (others) */
    KIND_CHANGED,   /* the socket changed its state */
    KIND_DESTROYED, /* the socket's end: later steps with this address are of another socket */
};

/* Attach points. The name behind `AT_` is that of the system call, function, tracepoint or hook:
 * lab/probes/analyse/measure.py reads the names here. */
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
    AT_pwritev,
    AT_pwritev2,
    AT_sendfile,
    AT_splice,
    AT_preadv,
    AT_preadv2,
};

/* What a call that receives takes from the socket. */
enum takes {
    TAKES_DATA,
    TAKES_NOTHING, /* MSG_PEEK */
    TAKES_ERRORS,  /* MSG_ERRQUEUE */
};

struct step {
    u64 time_ns;
    u64 enter_ns; /* entry of the call that this step ends; 0: it ends none */
    u64 skaddr;   /* 0: unknown */
    u64 listener; /* of accept(): address of the listening socket */
    u64 mptcp;    /* address of the MPTCP socket that the socket is, or is a subflow of; 0: none */
    u64 skb;      /* of ARRIVED and PROCESSED: the packet's kernel address */
    u8 laddr[16]; /* network order; IPv4 as ::ffff:a.b.c.d */
    u8 raddr[16];
    u32 netns; /* inode number of the network namespace */
    u32 tgid;  /* in the lab's PID namespace; 0: none there, or softirq, where the current task is any task */
    u32 tid;
    int result;       /* return value of the call */
    u32 seq;          /* of a segment, as `length` */
    u32 length;       /* bytes of data */
    u32 handshake_us; /* SYN-ACK sent to ACK received, on leaving SYN_RECV; 0: not measured by the kernel */
    u32 lost;         /* events lost before this one: after a loss the address can be that of another socket */
    u16 lport;
    u16 rport;
    u8 kind;
    u8 point;
    u8 returns;      /* 1: the step ends a call */
    u8 again;        /* 1: reported by the second program, in rare cases in addition to the first */
    u8 oldstate;     /* 0: no change of state */
    u8 state;        /* after the step; 0: unknown */
    u8 flags;        /* of a segment: 14th byte of its header */
    u8 called;       /* of OPENED, SENT and RECEIVED; 1: during an observed call of the current thread on the socket */
    u8 takes;        /* of the return of a call that receives: enum takes */
    u8 held;         /* of close(); 1: the socket stays open, since other descriptors or calls hold its file */
    char comm[16];   /* of the process */
    char thread[16]; /* name of the thread */
};

/* In pages. A busy machine makes more than 100,000 steps a second, and the reader can be delayed. */
BPF_RINGBUF_OUTPUT(events, 16384);

/* Reserve a step in the ring and stamp it; NULL if the ring is full. The clock is read after the reservation: a reader
 * that reads all rings to their ends at time t gets every step with a stamp before t. */
static inline struct step *new_step(u8 kind, u8 point)
{
    struct step *step = reserve(sizeof(struct step));

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

static inline u8 taken_by(int flags)
{
    if (flags & MSG_ERRQUEUE)
        return TAKES_ERRORS;
    return flags & MSG_PEEK ? TAKES_NOTHING : TAKES_DATA;
}

/* Fill in the current task. Only for steps that never happen in softirq: the current task then works on the socket. */
static inline void fill_owner(struct step *step)
{
    const void *task = current_task(), *leader = NULL;

    if (is_kernel_thread(task))
        return;
    task_read(&leader, task, FIELD(task_struct, group_leader));
    view_pids(task, leader, &step->tgid, &step->tid);
    read_own_name(step->thread, task);
    read_name(step->comm, leader);
}

static inline void fill_endpoints(struct step *step, const struct endpoints *from)
{
    __builtin_memcpy(step->laddr, &from->laddr, sizeof(step->laddr));
    __builtin_memcpy(step->raddr, &from->raddr, sizeof(step->raddr));
    step->netns = from->netns;
    step->lport = from->lport;
    step->rport = from->rport;
}

static inline u16 protocol_of(const void *sk)
{
    u16 protocol = 0;

    kernel_read(&protocol, sk, FIELD(sock, sk_protocol));
    return protocol;
}

/* Return the address of the MPTCP socket that a socket is, or is a subflow of; 0: none. */
static inline u64 mptcp_of(const void *sk)
{
    void *context = NULL, *connection = NULL;

    if (protocol_of(sk) == IPPROTO_MPTCP)
        return (u64)sk;
#ifdef OFFSET__mptcp_subflow_context__conn
    if (!is_subflow(sk))
        return 0;
    kernel_read(&context, sk, FIELD(inet_connection_sock, icsk_ulp_data));
    if (context)
        kernel_read(&connection, context, FIELD(mptcp_subflow_context, conn));
#endif
    return (u64)connection;
}

/* Return true for a TCP socket or an MPTCP socket in a namespace that the program observes. */
static inline bool is_watched_connection(const void *sk)
{
    const void *net = NULL;

    if (is_watched_tcp(sk))
        return true;
    if (protocol_of(sk) != IPPROTO_MPTCP)
        return false;
    kernel_read(&net, sk, FIELD(sock_common, skc_net));
    return is_watched(netns_of(net));
}

static inline void fill_socket(struct step *step, const void *sk)
{
    struct endpoints endpoints = {};

    step->skaddr = (u64)sk;
    step->mptcp = mptcp_of(sk);
    kernel_read(&step->state, sk, FIELD(sock_common, skc_state));
    read_socket_endpoints(&endpoints, sk);
    fill_endpoints(step, &endpoints);
}
