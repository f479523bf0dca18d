/* TCP segments that the kernel sends again: data, SYN, FIN and SYN-ACK.
 *
 * tcp:tcp_retransmit_skb comes after the segment has been handed to IP. Since Linux 6.17 it also comes for attempts that
 * failed, with their error (commit ad892e912b84). tcp:tcp_retransmit_synack comes for each SYN-ACK, which a request
 * sends: there is no socket yet.
 */
#define READ typed_read
#include "include/ring.h"
#include "include/second_run.h"
#include "include/tcp_socket.h"

struct retransmission {
    u64 time_ns;
    u8 laddr[16]; /* network order; IPv4 as ::ffff:a.b.c.d */
    u8 raddr[16];
    u32 netns; /* inode number of the network namespace */
    u32 seq;
    u32 length;   /* sequence space: bytes of data, and one each for SYN and FIN */
    u32 segments; /* that the device makes of it */
    u32 error;    /* errno of an attempt that failed, 0 if the segment was sent */
    u16 lport;
    u16 rport;
    u8 state; /* enum tcp_state */
    u8 flags; /* of TCP, without ACK, which is added later */
};

BPF_RINGBUF_OUTPUT(events, 1024);

enum point { AT_SEGMENT, AT_SYN_ACK };

#define TCP_NEW_SYN_RECV 12

/* NULL for a connection that is not observed, and without room. */
static inline struct retransmission *new_event(u64 time_ns, const struct endpoints *ends, const void *sk)
{
    struct retransmission *event;

    if (!is_chosen(ends, sk))
        return NULL;
    event = reserve(sizeof(struct retransmission));
    if (!event) {
        count_lost();
        return NULL;
    }
    __builtin_memset(event, 0, sizeof(*event));
    event->time_ns = time_ns;
    __builtin_memcpy(event->laddr, &ends->laddr, sizeof(event->laddr));
    __builtin_memcpy(event->raddr, &ends->raddr, sizeof(event->raddr));
    event->netns = ends->netns;
    event->lport = ends->lport;
    event->rport = ends->rport;
    return event;
}

/* A member of tcp_skb_cb, which TCP keeps in the skb's control block. */
#define of_segment(to, skb, field) OF_SEGMENT(to, skb, field)
#define OF_SEGMENT(to, skb, offset, size, type)                                                                        \
    KERNEL_READ(to, (skb) + offset_of(FIELD(sk_buff, cb)), offset, size, type)

static inline int report_segment(struct bpf_raw_tracepoint_args *ctx)
{
    u64 time_ns = bpf_ktime_get_ns();
    const void *tcp = tcp_of((const void *)ctx->args[0]), *skb = (const void *)ctx->args[1];
    struct endpoints ends = {};
    struct retransmission *event;
    u16 segments = 0;
    u32 end = 0;

    if (!tcp)
        return 0;
    read_socket_endpoints(&ends, tcp);
    event = new_event(time_ns, &ends, tcp);
    if (!event)
        return 0;
    of_segment(&event->seq, skb, FIELD(tcp_skb_cb, seq));
    of_segment(&end, skb, FIELD(tcp_skb_cb, end_seq));
#if SIZE__tcp_skb_cb__tcp_flags == 2 /* FIELD(tcp_skb_cb, tcp_flags), one byte before Linux 6.15 */
    u16 flags = 0;
#else
    u8 flags = 0;
#endif
    of_segment(&flags, skb, FIELD(tcp_skb_cb, tcp_flags));
    event->flags = flags;
    of_segment(&segments, skb, FIELD(tcp_skb_cb, tcp_gso_segs));
    event->length = end - event->seq;
    event->segments = segments;
    READ(&event->state, tcp, FIELD(sock_common, skc_state));
#if TRACEPOINT_ARGS(tcp_retransmit_skb) > 2
    event->error = -(int)ctx->args[2];
#endif
    events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
    return 0;
}

static inline int report_syn_ack(struct bpf_raw_tracepoint_args *ctx)
{
    u64 time_ns = bpf_ktime_get_ns();
    const void *request = (const void *)ctx->args[1];
    struct endpoints ends = {};
    struct common common;
    struct retransmission *event;

    copy_common(&common, request);
    read_endpoints(&ends, &common);
    event = new_event(time_ns, &ends, (const void *)ctx->args[0]);
    if (!event)
        return 0;
    kernel_read(&event->seq, request, FIELD(tcp_request_sock, snt_isn));
    event->flags = 0x02; /* SYN */
    event->length = event->segments = 1;
    event->state = TCP_NEW_SYN_RECV;
    events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
    return 0;
}

ON_TP_BTF(tcp_retransmit_skb)
{
    first_run(EVENT(tcp_retransmit_skb), AT_SEGMENT, ctx->args[1], is_held((const void *)ctx->args[0]));
    return report_segment(ctx);
}

ON_TP_BTF_AGAIN(tcp_retransmit_skb)
{
    return rescues(AT_SEGMENT, ctx->args[1]) ? report_segment(ctx) : 0;
}

/* A listener is not held: the timer and the softirq send SYN-ACKs. */
ON_TP_BTF(tcp_retransmit_synack)
{
    first_run(EVENT(tcp_retransmit_synack), AT_SYN_ACK, ctx->args[1], false);
    return report_syn_ack(ctx);
}

ON_TP_BTF_AGAIN(tcp_retransmit_synack)
{
    return rescues(AT_SYN_ACK, ctx->args[1]) ? report_syn_ack(ctx) : 0;
}
