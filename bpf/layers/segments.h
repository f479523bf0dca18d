/* The programs of the probe `layers` for segments: the stages TC_OUT to TCP_IN. */
#pragma once

#include "include/second_run.h"
#include "layers/event.h"
#define LOAD load_skb
#include "include/packet_parser.inc.h"

#define NOP_NOP_TIMESTAMP 0x0101080a /* tcp_options_write(): first options of an established connection */

#define PREFACE __builtin_bswap64(0x505249202a204854) /* "PRI * HT": RFC 9113, 3.4 */

/* Report a segment with `length` bytes of data in the network namespace `netns`. */
static inline void report_segment(u8 at, const struct packet *packet, u32 length, u32 tsval, u32 netns, u8 multiplexed,
                                  u8 of_socket)
{
    struct point *point;

    if (!length && !(packet->flags & (FIN | SYN | RST)))
        return;
    point = new_point(at);
    if (!point)
        return;
    __builtin_memcpy(point->saddr, &packet->saddr, sizeof(point->saddr));
    __builtin_memcpy(point->daddr, &packet->daddr, sizeof(point->daddr));
    point->sport = packet->sport;
    point->dport = packet->dport;
    point->netns = netns;
    point->seq = packet->seq;
    point->length = length;
    point->flags = packet->flags;
    point->tsval = tsval;
    point->multiplexed = multiplexed;
    point->of_socket = of_socket;
    events.ringbuf_submit(point, BPF_RB_NO_WAKEUP);
}

struct timestamp {
    u32 head;
    u32 tsval;
};

static inline u32 tsval_of(const struct timestamp *option)
{
    return option->head == bpf_htonl(NOP_NOP_TIMESTAMP) ? bpf_ntohl(option->tsval) : 0;
}

/* The kernel moves snd_nxt after the transmission (tcp_event_new_data_sent()), and rcv_nxt after cgroup_skb. */
static __always_inline u8 is_to_socket(u8 at, const struct packet *packet, u32 length, const void *tcp)
{
    u32 next = 0;

    if (!tcp)
        return NO_SOCKET;
    if (at == POINT_TC_OUT)
        typed_read(&next, tcp, FIELD(tcp_sock, snd_nxt));
    else
        typed_read(&next, tcp, FIELD(tcp_sock, rcv_nxt));
    return length && (int)(packet->seq + length - next) > 0 ? NEW_DATA : OLD_DATA;
}

static __always_inline u8 by_mptcp(const void *tcp)
{
    return tcp && is_subflow(tcp) ? BY_MPTCP : NOT_KNOWN;
}

/* Report a packet at TC or cgroup_skb, where it is the context. `netns` 0: the namespace of the packet's device. `tcp`:
 * its socket, if it is known. */
static __always_inline void report_packet(struct __sk_buff *ctx, u8 at, struct packet *packet, u32 netns,
                                          const void *tcp)
{
    struct timestamp option = {};
    u64 start = 0;
    u32 length;

    if (packet->problem || packet->protocol != IPPROTO_TCP ||
        !have_chosen_port(current_choice(), packet->sport, packet->dport))
        return;
    if (packet->payload_at >= packet->transport_at + 20 + 12)
        bpf_skb_load_bytes(ctx, packet->transport_at + 20, &option, sizeof(option));
    if (!netns)
        netns = netns_of_context(ctx);
    if (!is_watched(netns))
        return;
    length = payload_length(packet, ctx->len);
    if (length >= sizeof(start))
        bpf_skb_load_bytes(ctx, packet->payload_at, &start, sizeof(start));
    report_segment(at, packet, length, tsval_of(&option), netns, start == PREFACE ? BY_HTTP_2 : by_mptcp(tcp),
                   is_to_socket(at, packet, length, tcp));
}

static __always_inline int at_tc(struct __sk_buff *ctx, u8 at)
{
    struct packet *packet = new_packet();
    struct bpf_sock *sender = at == POINT_TC_OUT ? ctx->sk : NULL;
    const void *tcp = sender ? bpf_skc_to_tcp_sock(sender) : NULL;

    if (!packet)
        return TC_ACT_UNSPEC;
    parse_frame(ctx, packet);
    report_packet(ctx, at, packet, 0, tcp);
    return TC_ACT_UNSPEC;
}

ON_TC(egress)
{
    return at_tc(ctx, POINT_TC_OUT);
}

ON_TC(ingress)
{
    return at_tc(ctx, POINT_TC_IN);
}

/* Runs in tcp_v4_rcv() and tcp_v6_rcv(), after they have found the socket. */
ON_CGROUP_SKB(ingress)
{
    u16 ethertype = bpf_ntohs(ctx->protocol); /* as in analyse/tracepoints.inc.h */
    struct bpf_sock *found = ctx->sk;
    struct packet *packet;
    const void *tcp = found ? bpf_skc_to_tcp_sock(found) : NULL, *net = NULL;
    struct common common;
    u8 state = 0;

    if (!tcp)
        return 1;
    see_common(&common, tcp);
    common_read(&state, &common, FIELD(sock_common, skc_state));
    if (state != TCP_LISTEN && !is_observed(&common)) /* a listener has no remote port */
        return 1;
    common_read(&net, &common, FIELD(sock_common, skc_net));
    packet = new_packet();
    if (!packet)
        return 1;
    packet->ethertype = ethertype;
    parse_network(ctx, packet);
    report_packet(ctx, POINT_TCP_IN, packet, netns_of(net), tcp);
    return 1;
}

/* The headers that report_skb() reads, in a packet with no header between IP and TCP. */
struct ipv4_headers {
    struct iphdr ip;
    struct tcphdr tcp;
    struct timestamp option;
};

struct ipv6_headers {
    struct ipv6hdr ip;
    struct tcphdr tcp;
    struct timestamp option;
};

/* Report a packet at a tracepoint. Its headers are in the skb's linear data (eth_type_trans(), ip_output()). They are
 * copied together. Bytes beyond the packet's end are harmless. Packets with IPv6 extension headers are ignored. */
static inline int report_skb(const void *skb, u8 at)
{
    struct packet packet = {};
    struct timestamp option;
    struct tcphdr tcp;
    const void *head = NULL, *data = NULL, *ip_header;
    u32 length = 0, header, netns = netns_of_packet(skb);
    u16 protocol = 0, network = 0;

    if (!is_watched(netns))
        return 0;
    typed_read(&protocol, skb, FIELD(sk_buff, protocol));
    typed_read(&data, skb, FIELD(sk_buff, data));
    if (at == POINT_DEVICE_IN) { /* the data begins with the network header, whose offset is not set yet */
        ip_header = data;
    } else {
        typed_read(&head, skb, FIELD(sk_buff, head));
        typed_read(&network, skb, FIELD(sk_buff, network_header));
        ip_header = head + network;
    }
    if (protocol == bpf_htons(ETH_P_IP)) {
        struct ipv4_headers all = {};

        bpf_probe_read_kernel(&all, sizeof(all), ip_header);
        if (all.ip.protocol != IPPROTO_TCP)
            return 0;
        header = all.ip.ihl * 4;
        if (header > sizeof(all.ip)) /* IP has options */
            bpf_probe_read_kernel(&all.tcp, sizeof(all.tcp) + sizeof(all.option), ip_header + header);
        tcp = all.tcp;
        option = all.option;
        packet.ip_length = bpf_ntohs(all.ip.tot_len);
        map_ipv4(&packet.saddr, all.ip.saddr);
        map_ipv4(&packet.daddr, all.ip.daddr);
    } else if (protocol == bpf_htons(ETH_P_IPV6)) {
        struct ipv6_headers all = {};

        bpf_probe_read_kernel(&all, sizeof(all), ip_header);
        if (all.ip.nexthdr != IPPROTO_TCP)
            return 0;
        header = sizeof(all.ip);
        tcp = all.tcp;
        option = all.option;
        packet.ip_length = bpf_ntohs(all.ip.payload_len);
        packet.ip_length += packet.ip_length ? sizeof(all.ip) : 0;
        __builtin_memcpy(&packet.saddr, &all.ip.saddr, sizeof(packet.saddr));
        __builtin_memcpy(&packet.daddr, &all.ip.daddr, sizeof(packet.daddr));
    } else {
        return 0;
    }
    packet.sport = bpf_ntohs(tcp.source);
    packet.dport = bpf_ntohs(tcp.dest);
    if (!have_chosen_port(current_choice(), packet.sport, packet.dport))
        return 0;
    packet.seq = bpf_ntohl(tcp.seq);
    packet.flags = ((u8 *)&tcp)[13];
    length = packet.ip_length;
    if (!length) { /* too long for the field in the IP header */
        typed_read(&length, skb, FIELD(sk_buff, len));
        length -= ip_header - data;
    }
    header += tcp.doff * 4;
    report_segment(at, &packet, length > header ? length - header : 0, tcp.doff >= 8 ? tsval_of(&option) : 0, netns,
                   NOT_KNOWN, NO_SOCKET);
    return 0;
}

/* Runs with softirqs disabled: nothing that interrupts it reaches this tracepoint. */
ON_TP_BTF(net_dev_start_xmit)
{
    runs.increment(EVENT(net_dev_start_xmit));
    return report_skb((const void *)ctx->args[0], POINT_DEVICE_OUT);
}

/* Runs in softirq, or with softirqs disabled. */
ON_TP_BTF(netif_receive_skb)
{
    runs.increment(EVENT(netif_receive_skb));
    return report_skb((const void *)ctx->args[0], POINT_DEVICE_IN);
}
