/* Every frame with the port, stamped by XDP when it reaches the interface, before the network stack.
 *
 * -DPORT=n      source or destination port if nothing is chosen (9999); 0: all frames, including those without ports
 * -DSNAPLEN=n   the event carries the first n bytes of the frame
 * -DAT_TC=1     stamp frames at TC ingress. Implied by -DNO_ETHERNET=1: at XDP the copies that a host sends itself
 *               look like packets without Ethernet headers
 *
 * The program always passes the frame on.
 */
#if defined(NO_ETHERNET) && !defined(AT_TC)
#define AT_TC NO_ETHERNET
#endif
#ifndef PORT
#define PORT 9999
#endif
#if AT_TC
#define LOAD load_skb
typedef struct __sk_buff context;
#else
#define LOAD load_xdp
typedef struct xdp_md context;
#endif
#include "include/choice.h"
#include "include/epochs.h"
#include "include/packet_parser.inc.h"
#include "include/ring.h"
#include "include/attach_points.h"

#ifndef SNAPLEN
#define SNAPLEN 0
#endif

struct frame {
    u64 time_ns;
    u8 saddr[16]; /* network order; IPv4 as ::ffff:a.b.c.d */
    u8 daddr[16];
    u32 ifindex;
    u32 seq;
    u32 ack;
    u32 frame_length;   /* bytes, Ethernet header included; of a GSO frame before it is cut into segments */
    u32 payload_length; /* bytes behind the TCP or UDP header, without padding */
    u16 ethertype;
    u16 vlan;
    u16 inner_vlan;
    u16 sport;
    u16 dport;
    u8 version;
    u8 protocol;
    u8 flags;
    u8 fragment;
    u8 problem; /* why the ports are 0: enum problem */
#if SNAPLEN
    u8 bytes[SNAPLEN]; /* the frame's beginning */
#endif
};

struct unreadable {
    u32 epoch;
    u32 problem;
};

struct count {
    u64 frames;
};

BPF_RINGBUF_OUTPUT(events, 4096);
BPF_HASH(totals, struct unreadable, struct count, 64); /* frames that can have the port: it is unreadable */

static inline void count_unreadable(u8 problem)
{
    struct unreadable key = {.epoch = current_epoch(), .problem = problem};
    struct count none = {}, *count = totals.lookup_or_try_init(&key, &none);

    if (count)
        __sync_fetch_and_add(&count->frames, 1);
    else
        count_lost();
}

/* Return true if the packet can have ports that the parser could not read. */
static inline bool hides_ports(const struct packet *packet)
{
    return packet->problem != NO_PROBLEM && packet->problem != NOT_IP && packet->problem != NO_PORTS;
}

/* Return true if the packet is chosen. Count one that can be: the choice is by port, and the ports are unreadable. */
static __always_inline bool is_wanted(const struct packet *packet)
{
    const struct choice *chosen = current_choice();

    if (!have_chosen_hosts(chosen, &packet->saddr, &packet->daddr))
        return false;
    if (have_chosen_port(chosen, packet->sport, packet->dport))
        return true;
    if (hides_ports(packet))
        count_unreadable(packet->problem);
    return false;
}

static inline void fill(struct frame *frame, const struct packet *packet, u32 length)
{
    __builtin_memcpy(frame->saddr, &packet->saddr, sizeof(frame->saddr));
    __builtin_memcpy(frame->daddr, &packet->daddr, sizeof(frame->daddr));
    frame->seq = packet->seq;
    frame->ack = packet->ack;
    frame->ethertype = packet->ethertype;
    frame->vlan = packet->vlan;
    frame->inner_vlan = packet->inner_vlan;
    frame->sport = packet->sport;
    frame->dport = packet->dport;
    frame->version = packet->version;
    frame->protocol = packet->protocol;
    frame->flags = packet->flags;
    frame->fragment = packet->fragment;
    frame->problem = packet->problem;
    frame->frame_length = length - frame_at(packet);
    frame->payload_length = payload_length(packet, length);
}

#if SNAPLEN
/* At XDP not by bpf_xdp_load_bytes(): see load_xdp(). */
static inline void copy_bytes(context *ctx, struct frame *frame, u32 start)
{
    u64 length = frame->frame_length;

    /* Without this the compiler compares another register than the one whose bounds the verifier needs. */
    asm volatile("" : "+r"(length));
    if (length > SNAPLEN)
        length = SNAPLEN;
#if AT_TC
    if (length)
        bpf_skb_load_bytes(ctx, start, frame->bytes, length);
#else
    bpf_probe_read_kernel(frame->bytes, length, (void *)(long)ctx->data);
#endif
}
#endif

static __always_inline void report(context *ctx, const struct packet *packet, u32 ifindex, u64 time_ns)
{
    struct frame *frame;

    if (!is_wanted(packet))
        return;
    frame = reserve(sizeof(struct frame));
    if (!frame) {
        count_lost();
        return;
    }
    __builtin_memset(frame, 0, sizeof(*frame));
    frame->time_ns = time_ns;
    frame->ifindex = ifindex;
    fill(frame, packet, FRAME_LENGTH(ctx));
#if SNAPLEN
    copy_bytes(ctx, frame, frame_at(packet));
#endif
    events.ringbuf_submit(frame, BPF_RB_NO_WAKEUP);
}

#if AT_TC
ON_TC(ingress)
{
    u64 time_ns = bpf_ktime_get_ns();
    struct packet *packet;

    /* A copy of a multicast or broadcast datagram that this host sends itself (dev_loopback_xmit()). */
    if (ctx->pkt_type == PACKET_LOOPBACK)
        return TC_ACT_UNSPEC;
    packet = new_packet();
    if (!packet)
        return TC_ACT_UNSPEC;
    if (ctx->vlan_present)
        add_tag(packet, ctx->vlan_tci);
    parse_frame(ctx, packet);
    report(ctx, packet, ctx->ifindex, time_ns);
    return TC_ACT_UNSPEC;
}
#else
/* Return true if this beginning of a frame, read as Ethernet, is that of ARP or of an IP packet that fits in the frame. */
static inline bool is_consistent(const struct packet *packet, u32 length)
{
    return packet->ethertype == ETH_P_ARP || (packet->version && packet->ip_at + packet->ip_length <= length);
}

/* The copy of a multicast or broadcast datagram that this host sends itself reaches generic XDP without an Ethernet
 * header (dev_loopback_xmit()). The following functions recognise its IP header at the offset of the MAC addresses. A
 * frame differs in one of these:
 *
 * - Read as Ethernet, it is consistent. The copy is not: its ethertype is a part of the source address.
 * - The length in the IP header is that of the frame, and the destination is multicast or can be broadcast.
 * - IPv4: the header's checksum is right, and the MAC address would begin with 45 to 4f.
 * - IPv6: the MAC address would begin with 6, and that of a UDP datagram's sender would be a group address. */
static __always_inline bool is_ipv4_copy(struct xdp_md *ctx, const struct iphdr *ip)
{
    u32 destination = bpf_ntohl(ip->daddr), sum = 0, word;

    if (ip->ihl < 5 || bpf_ntohs(ip->tot_len) != FRAME_LENGTH(ctx))
        return false;
    /* 224.0.0.0/4; the broadcast address of a network of two hosts or more ends in binary 11. */
    if (destination >> 28 != 0xe && (destination & 3) != 3)
        return false;
#pragma unroll
    for (u32 at = 0; at < 60; at += sizeof(word)) {
        if (at >= ip->ihl * 4)
            break;
        if (load_xdp(ctx, at, &word, sizeof(word)))
            return false;
        sum += (word & 0xffff) + (word >> 16);
    }
    /* The sum over a right header is a multiple of 0xffff, which one addition of the halves turns into 0xffff. */
    return (sum & 0xffff) + (sum >> 16) == 0xffff;
}

static __always_inline bool is_ipv6_copy(struct xdp_md *ctx, const struct ipv6hdr *ip)
{
    return bpf_ntohs(ip->payload_len) + sizeof(*ip) == FRAME_LENGTH(ctx) && ip->daddr.s6_addr[0] == 0xff &&
           ip->saddr.s6_addr[0] != 0xff;
}

static __always_inline bool is_looped_copy(struct xdp_md *ctx, const struct packet *packet)
{
    struct ipv6hdr ipv6;
    struct iphdr ipv4;

    if (is_consistent(packet, FRAME_LENGTH(ctx)) || load_xdp(ctx, 0, &ipv4, sizeof(ipv4)))
        return false;
    if (ipv4.version == 4)
        return is_ipv4_copy(ctx, &ipv4);
    return ipv4.version == 6 && !load_xdp(ctx, 0, &ipv6, sizeof(ipv6)) && is_ipv6_copy(ctx, &ipv6);
}

ON_XDP(frame)
{
    u64 time_ns = bpf_ktime_get_ns();
    struct packet *packet = new_packet();

    if (!packet)
        return XDP_PASS;
    parse_frame(ctx, packet);
    if (!is_looped_copy(ctx, packet))
        report(ctx, packet, ctx->ingress_ifindex, time_ns);
    return XDP_PASS;
}
#endif
