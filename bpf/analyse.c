/* What the kernel does for one TCP connection, step by step: the application's system calls on its socket, and what happens
 * between them in the kernel, in process context and in softirq.
 *
 * The owner of a socket is whoever makes system calls on it. What happens in softirq has no owner of its own; it gets one by
 * the socket's address, in user space.
 */
/* clang-format off */
#define SYSTEM_CALLS(each)                                                                                             \
    each(connect, KIND_CONNECT)                                                                                        \
    each(accept, KIND_ACCEPT)                                                                                          \
    each(accept4, KIND_ACCEPT)                                                                                         \
    each(sendto, KIND_SEND)                                                                                            \
    each(sendmsg, KIND_SEND)                                                                                           \
    each(sendmmsg, KIND_SEND)                                                                                          \
    each(write, KIND_SEND)                                                                                             \
    each(writev, KIND_SEND)                                                                                            \
    each(recvfrom, KIND_RECEIVE)                                                                                       \
    each(recvmsg, KIND_RECEIVE)                                                                                        \
    each(recvmmsg, KIND_RECEIVE)                                                                                       \
    each(read, KIND_RECEIVE)                                                                                           \
    each(readv, KIND_RECEIVE)                                                                                          \
    each(shutdown, KIND_SHUTDOWN)                                                                                      \
    each(close, KIND_CLOSE)
/* clang-format on */

#define AT(name) AT_##name
#define LOAD load_skb

#include "analyse/calls.h"
#include "include/kernel_functions.h"
#include "include/packet_parser.inc.h"
#include "include/tcp_socket.h"
#include "include/second_run.h"

/* Functions that threads come to are not observed by fentry where that would lose some. */
#define SENDS_AT_TRACEPOINTS (ATTACH_FENTRY && PLAIN_TRACEPOINTS)

#define MSG_PEEK 2 /* to recv(): the data stays where it is */

/* Which of the probe's points is under way on this CPU (first_run() in second_run.h). */
enum slot {
    SLOT_CHANGED,
    SLOT_PROCESSED,
    SLOT_DESTROYED,
    SLOT_ARRIVED,
    SLOT_OPENING,
    SLOT_OPENED,
    SLOT_PROCESSING,
    SLOT_HAS_PROCESSED,
};

static inline int report_destroyed(const void *sk, bool again)
{
    struct step *step;

    if (!is_watched_tcp(sk))
        return 0;
    step = new_step(KIND_DESTROYED, AT_tcp_destroy_sock);
    if (!step)
        return 0;
    step->again = again;
    fill_socket(step, sk);
    events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    return 0;
}

ON_RAW_TRACEPOINT(tcp_destroy_sock)
{
    first_run(EVENT(tcp_destroy_sock), SLOT_DESTROYED, ctx->args[0], is_held((const void *)ctx->args[0]));
    return report_destroyed((const void *)ctx->args[0], false);
}

ON_RAW_TRACEPOINT_AGAIN(tcp_destroy_sock)
{
    return rescues(SLOT_DESTROYED, ctx->args[0]) ? report_destroyed((const void *)ctx->args[0], true) : 0;
}

/* Also where functions are observed: these are all changes of a socket's state, whoever makes them. */
static inline int report_changed(struct bpf_raw_tracepoint_args *ctx, bool again)
{
    const void *sk = (const void *)ctx->args[0];
    u8 oldstate = ctx->args[1], newstate = state_after(sk, oldstate, ctx->args[2]);
    bool opens = ATTACH_TRACEPOINT && oldstate == TCP_CLOSE && newstate == TCP_SYN_SENT;
    struct step *step;

    if (oldstate == newstate || !is_watched_tcp(sk))
        return 0;
    step = new_step(opens ? KIND_OPENED : KIND_CHANGED, AT_inet_sock_set_state);
    if (!step)
        return 0;
    fill_socket(step, sk);
    step->oldstate = oldstate;
    step->state = newstate;
    step->again = again;
    if (oldstate == TCP_SYN_RECV && newstate == TCP_ESTABLISHED)
        step->handshake_us = handshake_rtt_us(sk);
    events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    return 0;
}

ON_RAW_TRACEPOINT(inet_sock_set_state)
{
    first_run(EVENT(inet_sock_set_state), SLOT_CHANGED, change_key(ctx), is_held((const void *)ctx->args[0]));
    return report_changed(ctx, false);
}

ON_RAW_TRACEPOINT_AGAIN(inet_sock_set_state)
{
    return rescues(SLOT_CHANGED, change_key(ctx)) ? report_changed(ctx, true) : 0;
}

/* A segment of which TCP's header and what follows it are `length` bytes. */
static inline void fill_segment(struct step *step, const void *skb, const struct tcphdr *tcp, u32 length)
{
    step->seq = bpf_ntohl(tcp->seq);
    step->flags = ((u8 *)tcp)[13];
    step->length = length - tcp->doff * 4;
    step->skb = (u64)skb;
}

static inline int report_processed(const void *sk, const void *skb, u8 point, bool again)
{
    struct tcphdr tcp;
    struct step *step;
    void *head;
    u16 transport;
    u32 length;

    if (!is_watched_tcp(sk))
        return 0;
    step = new_step(KIND_PROCESSED, point);
    if (!step)
        return 0;
    fill_socket(step, sk);
    kernel_read(&head, skb, FIELD(sk_buff, head));
    kernel_read(&transport, skb, FIELD(sk_buff, transport_header));
    kernel_read(&length, skb, FIELD(sk_buff, len)); /* tcp_v4_rcv() has taken IP's header off */
    bpf_probe_read_kernel(&tcp, sizeof(tcp), head + transport);
    fill_segment(step, skb, &tcp, length);
    step->again = again;
    events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    return 0;
}

/* TCP has done what the application asked for, and returns. */
static inline int report_done(const void *sk, u8 kind, u8 point, u64 enter_ns, int result)
{
    struct step *step;

    if (!is_watched_tcp(sk))
        return 0;
    step = new_step(kind, point);
    if (!step)
        return 0;
    fill_owner(step);
    fill_socket(step, sk);
    step->enter_ns = enter_ns;
    step->result = result;
    step->returns = 1;
    events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    return 0;
}

#if ATTACH_TRACEPOINT || SENDS_AT_TRACEPOINTS
#include "analyse/lengths.inc.h"
#endif
#if ATTACH_TRACEPOINT
#include "analyse/tracepoints.inc.h"
#else
#include "analyse/functions.inc.h"
#endif
