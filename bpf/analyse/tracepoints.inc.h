/* The steps of a connection on kernels where programs cannot attach to functions: at the nearest tracepoints and hook.
 * A part of analyse.c, which first defines the slots and report_processed(). */
#pragma once

/* No function is observed. */
static inline void forget_function(u64 thread)
{
}

/* Fires in tcp_rcv_established(). */
ON_RAW_TRACEPOINT(tcp_probe)
{
    first_run(EVENT(tcp_probe), SLOT_PROCESSED, ctx->args[1], is_held((const void *)ctx->args[0]));
    return report_processed((const void *)ctx->args[0], (const void *)ctx->args[1], AT_tcp_probe, false);
}

ON_RAW_TRACEPOINT_AGAIN(tcp_probe)
{
    if (!rescues(SLOT_PROCESSED, ctx->args[1]))
        return 0;
    return report_processed((const void *)ctx->args[0], (const void *)ctx->args[1], AT_tcp_probe, true);
}

/* Runs in tcp_v4_rcv() and tcp_v6_rcv(), after they have found the socket. For the segments of a request socket this is
 * the listener. It does not run for timewait minisocks. */
ON_CGROUP_SKB(ingress)
{
    u16 ethertype = bpf_ntohs(ctx->protocol); /* read here: later, some compilers add to the context's pointer first */
    struct bpf_sock *found = ctx->sk;
    struct packet *packet;
    struct step *step;
    u32 netns;

    if (!found)
        return 1;
    netns = netns_of_context(ctx);
    if (!is_watched(netns))
        return 1;
    packet = new_packet();
    if (!packet)
        return 1;
    packet->ethertype = ethertype;
    parse_network(ctx, packet);
    if (packet->protocol != IPPROTO_TCP || packet->problem)
        return 1;
    step = new_step(KIND_ARRIVED, AT_cgroup_skb_ingress);
    if (!step)
        return 1;
    step->state = found->state;
    step->skaddr = (u64)found;
    step->netns = netns;
    __builtin_memcpy(step->laddr, &packet->daddr, sizeof(step->laddr));
    __builtin_memcpy(step->raddr, &packet->saddr, sizeof(step->raddr));
    step->lport = packet->dport;
    step->rport = packet->sport;
    step->seq = packet->seq;
    step->flags = packet->flags;
    step->length = ctx->len - packet->payload_at;
    step->skb = (u64)ctx; /* the verifier translates it to the struct sk_buff */
    events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    return 1;
}
