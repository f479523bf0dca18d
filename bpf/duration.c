/* The segments that open and end TCP connections (SYN, FIN and RST), at TC ingress and egress of an interface.
 *
 * The program stores nothing between segments: the reader assigns them to connections. A connection that never ends
 * therefore takes no memory in the kernel.
 */
#include "include/attach_points.h"
#include "include/ring.h"
#include "include/choice.h"
#define LOAD load_skb
#include "include/packet_parser.inc.h"

struct segment {
    u64 time_ns;
    u8 saddr[16]; /* network order; IPv4 as ::ffff:a.b.c.d */
    u8 daddr[16];
    u32 seq;
    u32 ack;
    u32 payload_length; /* bytes of data; with GSO or GRO those of all segments of the skb */
    u32 ifindex;
    u16 sport;
    u16 dport;
    u16 vlan; /* ids of the tags, 0: no tag */
    u16 inner_vlan;
    u8 flags;
    u8 ingress;
};

BPF_RINGBUF_OUTPUT(events, 4096);

#if NO_ETHERNET
static __always_inline bool is_plain_mid_segment(struct __sk_buff *ctx)
{
    return false;
}
#else
/* Return true for most segments without SYN, FIN and RST, at a lower cost than the parser. It recognises segments with
 * no header between those of Ethernet, IP and TCP, all in the skb's linear data. */
static __always_inline bool is_plain_mid_segment(struct __sk_buff *ctx)
{
    const struct ethhdr *ethernet = DATA(ctx);
    const void *end = END_OF_DATA(ctx);
    const struct iphdr *ipv4 = (const void *)(ethernet + 1);
    const struct ipv6hdr *ipv6 = (const void *)(ethernet + 1);
    const u8 *tcp;

    if ((const void *)(ipv4 + 1) > end)
        return false;
    if (ethernet->h_proto == bpf_htons(ETH_P_IP) && *(const u8 *)ipv4 == 0x45 && ipv4->protocol == IPPROTO_TCP) {
        tcp = (const void *)(ipv4 + 1);
    } else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
        if ((const void *)(ipv6 + 1) > end || ipv6->nexthdr != IPPROTO_TCP)
            return false;
        tcp = (const void *)(ipv6 + 1);
    } else {
        return false;
    }
    return (const void *)(tcp + sizeof(struct tcphdr)) <= end && !(tcp[13] & (FIN | SYN | RST));
}
#endif

static __always_inline int report_segment(struct __sk_buff *ctx, u8 ingress)
{
    struct segment *segment;
    struct packet *packet;

    if (is_plain_mid_segment(ctx))
        return TC_ACT_UNSPEC;
    packet = new_packet();
    if (!packet)
        return TC_ACT_UNSPEC;
    if (ctx->vlan_present)
        add_tag(packet, ctx->vlan_tci);
    parse_frame(ctx, packet);
    if (!(packet->flags & (FIN | SYN | RST))) /* only the TCP header of a packet without a problem gives it flags */
        return TC_ACT_UNSPEC;
    if (!are_chosen_ends(current_choice(), &packet->saddr, packet->sport, &packet->daddr, packet->dport))
        return TC_ACT_UNSPEC;
    segment = reserve(sizeof(struct segment));
    if (!segment) {
        count_lost();
        return TC_ACT_UNSPEC;
    }
    __builtin_memset(segment, 0, sizeof(*segment));
    segment->time_ns = bpf_ktime_get_ns();
    __builtin_memcpy(segment->saddr, &packet->saddr, sizeof(segment->saddr));
    __builtin_memcpy(segment->daddr, &packet->daddr, sizeof(segment->daddr));
    segment->seq = packet->seq;
    segment->ack = packet->ack;
    segment->payload_length = payload_length(packet, ctx->len);
    segment->ifindex = ctx->ifindex;
    segment->sport = packet->sport;
    segment->dport = packet->dport;
    segment->vlan = packet->vlan;
    segment->inner_vlan = packet->inner_vlan;
    segment->flags = packet->flags;
    segment->ingress = ingress;
    events.ringbuf_submit(segment, BPF_RB_NO_WAKEUP);
    return TC_ACT_UNSPEC;
}

ON_TC(ingress)
{
    return report_segment(ctx, 1);
}

ON_TC(egress)
{
    return report_segment(ctx, 0);
}
