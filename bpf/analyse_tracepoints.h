/* The steps of a connection where kernel functions cannot be observed: at the tracepoints and the hook nearest to them. */
#pragma once

#define MSG_PEEK 2

/* Fires in tcp_rcv_established(). */
ON_RAW_TRACEPOINT(tcp_probe)
{
    first_run(EVENT(tcp_probe), SLOT_PROCESSED, ctx->args[1]);
    return report_processed((const void *)ctx->args[0], (const void *)ctx->args[1], AT_tcp_probe, false);
}

ON_RAW_TRACEPOINT_AGAIN(tcp_probe)
{
    if (!rescues(SLOT_PROCESSED, ctx->args[1]))
        return 0;
    return report_processed((const void *)ctx->args[0], (const void *)ctx->args[1], AT_tcp_probe, true);
}

#ifdef TRACEPOINT_ARGS__sock_send_length /* since Linux 6.3; before, only the system calls tell of sending and receiving */

_Static_assert(TRACEPOINT_ARGS(sock_send_length) == 3, "they have other arguments");

/* Behind the protocol's sendmsg() and recvmsg(), in the process that called: never in an interrupt. */
ON_RAW_TRACEPOINT(sock_send_length)
{
    const void *sk = (const void *)ctx->args[0];

    first_run(EVENT(sock_send_length), SLOT_SENT, ctx->args[0]);
    return report_done(sk, KIND_SENT, AT_sock_send_length, entered_ns(sk), ctx->args[1]);
}

ON_RAW_TRACEPOINT(sock_recv_length)
{
    const void *sk = (const void *)ctx->args[0];

    first_run(EVENT(sock_recv_length), SLOT_RECEIVED, ctx->args[0]);
    if (ctx->args[2] & MSG_PEEK) /* the data stays where it is, and the tracepoint says 0 */
        return 0;
    return report_done(sk, KIND_RECEIVED, AT_sock_recv_length, entered_ns(sk), ctx->args[1]);
}

#endif

/* Runs inside tcp_v4_rcv() and tcp_v6_rcv(), when they have found the socket: the listener for what a request socket gets,
 * and never for a timewait minisock. */
ON_CGROUP_SKB(ingress)
{
    struct packet packet = {.ethertype = bpf_ntohs(ctx->protocol)};
    struct bpf_sock *found = ctx->sk;
    struct step *step;
    u32 netns;

    if (!found)
        return 1;
    netns = netns_of_context(ctx);
    if (!is_watched(netns))
        return 1;
    parse_network(ctx, &packet);
    if (packet.protocol != IPPROTO_TCP || packet.problem)
        return 1;
    step = new_step(KIND_ARRIVED, AT_cgroup_skb_ingress);
    if (!step)
        return 1;
    step->state = found->state;
    step->skaddr = (u64)found;
    step->netns = netns;
    __builtin_memcpy(step->laddr, &packet.daddr, sizeof(step->laddr));
    __builtin_memcpy(step->raddr, &packet.saddr, sizeof(step->raddr));
    step->lport = packet.dport;
    step->rport = packet.sport;
    step->seq = packet.seq;
    step->flags = packet.flags;
    step->length = ctx->len - packet.payload_at;
    events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    return 1;
}
