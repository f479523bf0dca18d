/* What the kernel does for a TCP connection, step by step: the application's system calls on its socket, and TCP's work
 * between them, in process context and in softirq. Each step is an event (analyse/event.h).
 *
 * A socket's owner is the process that makes system calls on it. Steps in softirq have no owner here: the reader finds
 * it by the socket's address.
 */
#define LOAD load_skb

/* calls.h sets TYPED to 1, also for kprobes: in this probe only tracepoints and fentry read typed arguments. */
#include "analyse/calls.h"
#include "include/handshake.h"
#include "include/kernel_functions.h"
#include "include/packet_parser.inc.h"
#include "include/tcp_socket.h"
#include "include/second_run.h"

/* Observe functions that only threads reach at tracepoints and not by fentry, where threads are preempted in programs
 * (thread_tracepoints.h). */
#define SENDS_AT_TRACEPOINTS (ATTACH_FENTRY && PLAIN_TRACEPOINTS)

/* The probe's attach points with a second program, numbered for note_run() in second_run.h. */
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

/* Every mechanism uses this tracepoint for changes of state, since it reports all of them. */
static inline int report_changed(struct bpf_raw_tracepoint_args *ctx, bool again)
{
    const void *sk = (const void *)ctx->args[0];
    u8 oldstate = ctx->args[1], newstate = ctx->args[2];
    struct step *step;
    bool opens;

    if (!is_watched_connection(sk))
        return 0;
    if (protocol_of(sk) == IPPROTO_TCP) {
        if (oldstate == TCP_LISTEN && newstate == TCP_SYN_RECV)
            note_listener(sk);
        newstate = state_after(sk, oldstate, newstate);
    }
    if (oldstate == newstate)
        return 0;
    opens = ATTACH_TRACEPOINT && oldstate == TCP_CLOSE && newstate == TCP_SYN_SENT;
    step = new_step(opens ? KIND_OPENED : KIND_CHANGED, AT_inet_sock_set_state);
    if (!step)
        return 0;
    fill_socket(step, sk);
    /* inet_sport is that of an earlier attempt until connect() has bound the socket. */
    if (oldstate == TCP_CLOSE && newstate == TCP_SYN_SENT)
        kernel_read(&step->lport, sk, FIELD(sock_common, skc_num));
    /* A new child still names the MPTCP socket of its listener (subflow_ulp_clone()). */
    if (oldstate == TCP_LISTEN && step->mptcp != step->skaddr)
        step->mptcp = 0;
    step->called = opens && is_called(sk);
    step->oldstate = oldstate;
    step->state = newstate;
    step->again = again;
    if (oldstate == TCP_SYN_RECV && newstate == TCP_ESTABLISHED && !step->mptcp)
        step->handshake_us = handshake_rtt_us(sk, newstate);
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

/* `length`: bytes of the TCP header and the data. */
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
    kernel_read(&length, skb, FIELD(sk_buff, len)); /* tcp_v4_rcv() has removed the IP header */
    bpf_probe_read_kernel(&tcp, sizeof(tcp), head + transport);
    fill_segment(step, skb, &tcp, length);
    step->again = again;
    events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    return 0;
}

/* Report that a function of TCP, entered at `enter_ns` for the current thread, returns `result`. */
static inline int report_done(const void *sk, u8 kind, u8 point, u64 enter_ns, int result)
{
    struct step *step;

    if (!is_watched_connection(sk))
        return 0;
    step = new_step(kind, point);
    if (!step)
        return 0;
    fill_owner(step);
    fill_socket(step, sk);
    step->enter_ns = enter_ns;
    step->called = is_called(sk);
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
