/* Packets and bytes of every flow that passes an interface, at TC ingress and egress.
 *
 * One skb can stand for many packets: the device will cut it up (GSO), or the kernel has joined packets (GRO). The
 * probe counts the packets on the wire, each with its own headers.
 *
 * -DNO_ETHERNET=1   interfaces without Ethernet headers: bytes are those of IP packets, and MAC addresses are 0
 */
#define LOAD load_skb

#include "include/choice.h"
#include "include/packet_parser.inc.h"
#include "include/epochs.h"
#include "include/lost.h"
#include "include/attach_points.h"

#define LOOPBACK_IFINDEX 1      /* include/net/flow.h */
#define LOWEST_ETHERTYPE 0x0600 /* a lower one is the length of an IEEE 802.3 frame */
#define VLAN_TAG_LENGTH 4

enum direction { INGRESS, EGRESS };

struct flow {
    u32 epoch;
    u32 ifindex;
    u8 saddr[16]; /* network order; IPv4 as ::ffff:a.b.c.d */
    u8 daddr[16];
    u8 smac[6];
    u8 dmac[6];
    u16 sport; /* 0: the packet has none, for example a later fragment */
    u16 dport;
    u16 ethertype; /* behind the VLAN tags; 0: 802.3 frame, which has a length there */
    u16 vlan;
    u16 inner_vlan;
    u16 problem; /* enum problem: why ports or more are missing */
    u16 direction;
    u8 version; /* of IP; 0: no IP, or unreadable */
    u8 protocol;
};

struct traffic {
    u64 packets;
    u64 bytes;         /* of Ethernet frames, VLAN tags included, without frame check sequence */
    u64 payload_bytes; /* data of TCP and UDP */
    u64 syns;
    u64 fins;
    u64 rsts;
    u64 first_ns;
    u64 last_ns;
};

BPF_HASH(totals, struct flow, struct traffic, 65536);

/* Return the offset of the data of TCP or UDP in a later fragment, 0 for another protocol. The fragment begins with
 * data, unless the first one ends within the TCP header. */
static __always_inline u32 data_of_fragment(const struct packet *packet)
{
    if (packet->protocol == IPPROTO_UDP || packet->protocol == IPPROTO_UDPLITE)
        return packet->transport_at;
    if (packet->protocol != IPPROTO_TCP)
        return 0;
    if (packet->fragment_at >= sizeof(struct tcphdr))
        return packet->transport_at;
    return packet->transport_at + sizeof(struct tcphdr) - packet->fragment_at;
}

/* Packets and bytes of an skb on the wire. Like qdisc_pkt_len_init(), and for ingress too. */
static __always_inline void measure(struct __sk_buff *ctx, const struct packet *packet, struct traffic *to)
{
    u32 headers = packet->payload_at ? packet->payload_at : packet->transport_at;
    u32 start = frame_at(packet);

    to->packets = 1;
    if (ctx->gso_size) {
        to->packets = ctx->gso_segs;
        if (!to->packets) /* SKB_GSO_DODGY, from a virtual machine: the kernel has not counted them yet */
            to->packets = (ctx->len - headers + ctx->gso_size - 1) / ctx->gso_size;
    }
    to->bytes = ctx->len - start + (to->packets - 1) * (headers - start);
    /* At egress the kernel knows the length with the headers inside a tunnel. */
    if (ctx->wire_len > to->bytes)
        to->bytes = ctx->wire_len;
    if (ctx->vlan_present) /* in the skb and not in the frame */
        to->bytes += to->packets * VLAN_TAG_LENGTH;
    /* A super-packet is not padded, and the length in its IP header can be that of one packet. */
    if (ctx->gso_size && packet->payload_at)
        to->payload_bytes = ctx->len > packet->payload_at ? ctx->len - packet->payload_at : 0;
    else
        to->payload_bytes = payload_length(packet, ctx->len);
    to->syns = (packet->flags & SYN) != 0;
    to->fins = (packet->flags & FIN) != 0;
    to->rsts = (packet->flags & RST) != 0;
}

static __always_inline int count(struct __sk_buff *ctx, enum direction direction)
{
    u64 time_ns = bpf_ktime_get_ns();
    struct packet *packet;
    struct flow flow = {};
    struct traffic none = {.first_ns = time_ns, .last_ns = time_ns}, here = {};
    struct traffic *sum;

    /* Every packet of the loopback interface passes egress and then ingress. Count it at egress. Copies of multicast and
     * broadcast datagrams that the host sends itself have no Ethernet header (dev_loopback_xmit()). Ignore them. */
    if (direction == INGRESS && (ctx->ifindex == LOOPBACK_IFINDEX || ctx->pkt_type == PACKET_LOOPBACK))
        return TC_ACT_UNSPEC;
    packet = new_packet();
    if (!packet)
        return TC_ACT_UNSPEC;
    if (ctx->vlan_present)
        add_tag(packet, ctx->vlan_tci);
    parse_frame(ctx, packet);
    if (!are_chosen_ends(current_choice(), &packet->saddr, packet->sport, &packet->daddr, packet->dport))
        return TC_ACT_UNSPEC;
    if (packet->problem == LATER_FRAGMENT)
        packet->payload_at = data_of_fragment(packet);
    FORGET_VALUES();
    measure(ctx, packet, &here);

    flow.epoch = current_epoch();
    flow.ifindex = ctx->ifindex;
    flow.direction = direction;
    __builtin_memcpy(flow.saddr, &packet->saddr, sizeof(flow.saddr));
    __builtin_memcpy(flow.daddr, &packet->daddr, sizeof(flow.daddr));
#if !NO_ETHERNET
    bpf_skb_load_bytes(ctx, 0, flow.dmac, sizeof(flow.dmac));
    bpf_skb_load_bytes(ctx, sizeof(flow.dmac), flow.smac, sizeof(flow.smac));
#endif
    flow.sport = packet->sport;
    flow.dport = packet->dport;
    flow.ethertype = packet->ethertype >= LOWEST_ETHERTYPE ? packet->ethertype : 0;
    flow.vlan = packet->vlan;
    flow.inner_vlan = packet->inner_vlan;
    flow.problem = packet->problem;
    flow.version = packet->version;
    flow.protocol = packet->protocol;

    sum = totals.lookup_or_try_init(&flow, &none);
    if (!sum) {
        count_lost_many(here.packets);
        return TC_ACT_UNSPEC;
    }
    __sync_fetch_and_add(&sum->packets, here.packets);
    __sync_fetch_and_add(&sum->bytes, here.bytes);
    __sync_fetch_and_add(&sum->payload_bytes, here.payload_bytes);
    __sync_fetch_and_add(&sum->syns, here.syns);
    __sync_fetch_and_add(&sum->fins, here.fins);
    __sync_fetch_and_add(&sum->rsts, here.rsts);
    /* If two CPUs do this at the same time, either time can be stored. Both are times of a packet. */
    if (time_ns < sum->first_ns)
        sum->first_ns = time_ns;
    if (time_ns > sum->last_ns)
        sum->last_ns = time_ns;
    return TC_ACT_UNSPEC;
}

ON_TC(ingress)
{
    return count(ctx, INGRESS);
}

ON_TC(egress)
{
    return count(ctx, EGRESS);
}
