/* The parser of frames: Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with extension headers, AH, fragments,
 * TCP and UDP.
 *
 * The file that includes this one defines LOAD as `load_skb` (TC, cgroup_skb) or `load_xdp`.
 *
 * -DNO_ETHERNET=1   packets of interfaces without Ethernet headers, such as tun: parse_frame() begins with IP, at TC only
 *
 * The ports are right, or they are 0 and `problem` gives the reason. This includes a first fragment without a complete
 * TCP header. Formats: IEEE 802.1Q, RFC 791, RFC 8200 (4), RFC 4302 (2.2), RFC 9293 (3.1).
 */
#pragma once

#include "include/address.h"
#include "include/kernel_read.h"
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#ifndef NO_ETHERNET
#define NO_ETHERNET 0
#endif

enum problem {
    NO_PROBLEM,
    NOT_IP,           /* another protocol: see `ethertype` */
    TRUNCATED,        /* the frame ends within its headers */
    MALFORMED,        /* a header contradicts itself */
    LATER_FRAGMENT,   /* only the first fragment has the ports */
    TOO_MANY_HEADERS, /* more than MOST_EXTENSION_HEADERS */
    NO_PORTS,         /* a protocol without ports */
    ENCRYPTED,        /* the ports are inside ESP */
};

struct packet {
    struct address saddr;
    struct address daddr;
    u32 seq;
    u32 ack;
    u32 ip_length; /* of the IP packet, from its header; 0: too long for that field (BIG TCP) */
    u16 ethertype; /* behind the VLAN tags, host order */
    u16 vlan;      /* id of the outer tag; 0: no tag, or a priority tag (id 0) */
    u16 inner_vlan;
    u16 sport;        /* host order */
    u16 dport;        /* host order */
    u16 ip_at;        /* offset of the IP header */
    u16 transport_at; /* offset of the header behind IP's headers */
    u16 payload_at;   /* offset of the data of TCP or UDP */
    u16 fragment_at;  /* of a later fragment: its offset in the datagram, in bytes */
    u8 version;       /* of IP; 0: no IP */
    u8 protocol;      /* behind IP's headers */
    u8 flags;         /* 14th byte of the TCP header */
    u8 fragment;      /* 1: the packet is a fragment */
    u8 tags;          /* number of VLAN tags parsed, including one that the device has removed */
    u8 problem;
};

/* The parsed packet of each CPU. The verifier follows every path on which values of its stack differ, but not those on which
 * only contents of maps do: with the packet on the stack it takes a hundred times as many steps. A program on a packet is not
 * interrupted by another one on its CPU: softirqs are disabled. */
struct packet_words {
    u64 words[9]; /* a struct packet: BCC does not support nested structs in the values of maps */
};

_Static_assert(sizeof(struct packet_words) >= sizeof(struct packet), "a packet does not fit");

BPF_PERCPU_ARRAY(parsed_packets, struct packet_words, 1);

#define FIN 0x01 /* of `flags` */
#define SYN 0x02
#define RST 0x04
#define MOST_EXTENSION_HEADERS 8
#define MOST_TAGS 2
#define MOST_HEADERS 0x3fff /* bytes */
#define LEAST_AH 1          /* length of an AH without ICV, in words of 4 bytes minus 2 */
#define IPPROTO_HOPOPTS 0
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_DSTOPTS 60
#define IPV4_OFFSET_MASK 0x1fff
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV6_OFFSET_MASK 0xfff8
#define IPV6_MORE_FRAGMENTS 0x0001
#define PACKET_LOOPBACK 5 /* include/uapi/linux/if_packet.h */

struct vlan_tag {
    u16 tci;
    u16 ethertype;
};

struct extension {
    u8 next;
    u8 length;
    u16 fragment; /* in a fragment header: offset and flags */
};

struct udp_ports {
    u16 source;
    u16 dest;
    u16 length;
    u16 checksum;
};

/* Where the linear data of an skb or an XDP frame begins and ends. In assembler: the compiler can add the offset of a member
 * to the context before the load, which the verifier refuses. */
#define DATA(ctx) MEMBER_OF_CONTEXT(ctx, data)
#define END_OF_DATA(ctx) MEMBER_OF_CONTEXT(ctx, data_end)
#define MEMBER_OF_CONTEXT(ctx, member)                                                                                 \
    ({                                                                                                                 \
        void *loaded;                                                                                                  \
        asm volatile("%0 = *(u32 *)(%1 + %2)"                                                                          \
                     : "=r"(loaded)                                                                                    \
                     : "r"(ctx), "i"(__builtin_offsetof(typeof(*(ctx)), member)));                                     \
        loaded;                                                                                                        \
    })

/* Copy `size` bytes from between `data` and `end`. Return 0, another value if there are fewer. */
static __always_inline int load_linear(void *data, void *end, u32 offset, void *to, u32 size)
{
    u64 at = offset;

    asm volatile("" : "+r"(at)); /* the offset that is compared and the one that is added are one register */
    if (at > MOST_HEADERS)       /* the verifier requires a bound */
        return -1;
    data += at;
    if (data + size > end)
        return -1;
    __builtin_memcpy(to, data, size);
    return 0;
}

/* Copy `size` bytes of the frame, paged data included. Return 0, another value if the frame is too short. The helper takes
 * 10 to 20 ns, direct access 2. */
static __always_inline int load_skb(struct __sk_buff *ctx, u32 offset, void *to, u32 size)
{
    if (!load_linear(DATA(ctx), END_OF_DATA(ctx), offset, to, size))
        return 0;
    return bpf_skb_load_bytes(ctx, offset, to, size);
}

static __always_inline u32 load_skb_length(struct __sk_buff *ctx)
{
    return ctx->len;
}

/* load_skb() for XDP. By direct access only: bpf_xdp_load_bytes() exists since Linux 5.18, and the lab supports 5.10. */
static __always_inline int load_xdp(struct xdp_md *ctx, u32 offset, void *to, u32 size)
{
    return load_linear(DATA(ctx), END_OF_DATA(ctx), offset, to, size);
}

static __always_inline u32 load_xdp_length(struct xdp_md *ctx)
{
    return ctx->data_end - ctx->data;
}

/* Bytes of the frame. */
#define FRAME_LENGTH(ctx) FRAME_LENGTH_BY(LOAD, ctx)
#define FRAME_LENGTH_BY(load, ctx) FRAME_LENGTH_OF(load, ctx)
#define FRAME_LENGTH_OF(load, ctx) load##_length(ctx)

/* Return this CPU's packet, all zero. */
static __always_inline struct packet *new_packet(void)
{
    int only = 0;
    struct packet_words *packet = parsed_packets.lookup(&only);

    if (packet)
        __builtin_memset(packet, 0, sizeof(*packet));
    return (struct packet *)packet;
}

static __always_inline bool is_vlan(u16 ethertype)
{
    return ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD;
}

/* Add a VLAN tag. A tag that the device has removed is the outermost: add it before parse_frame(). */
static __always_inline void add_tag(struct packet *packet, u16 tci)
{
    u16 id = tci & 0xfff;

    if (!packet->vlan)
        packet->vlan = id;
    else
        packet->inner_vlan = id;
    packet->tags++;
}

/* Return true if the frame is too long for IP's 16-bit length, which is then 0 (iph_totlen(), RFC 2675). */
static __always_inline bool is_giant(void *ctx)
{
    return FRAME_LENGTH(ctx) > 0xffff;
}

/* Copy `size` bytes behind the IP headers. Fails beyond the packet's end: short frames are padded to 60 bytes. */
static __always_inline int load_transport(void *ctx, const struct packet *packet, void *to, u32 size)
{
    if (packet->ip_length && packet->transport_at + size > packet->ip_at + packet->ip_length)
        return -1;
    return LOAD(ctx, packet->transport_at, to, size);
}

static __always_inline u8 parse_transport(void *ctx, struct packet *packet)
{
    if (packet->protocol == IPPROTO_TCP) {
        struct tcphdr tcp;

        if (load_transport(ctx, packet, &tcp, sizeof(tcp)))
            return TRUNCATED;
        if (tcp.doff < 5)
            return MALFORMED;
        packet->sport = bpf_ntohs(tcp.source);
        packet->dport = bpf_ntohs(tcp.dest);
        packet->seq = bpf_ntohl(tcp.seq);
        packet->ack = bpf_ntohl(tcp.ack_seq);
        packet->flags = ((u8 *)&tcp)[13];
        packet->payload_at = packet->transport_at + tcp.doff * 4;
        return NO_PROBLEM;
    }
    if (packet->protocol == IPPROTO_UDP || packet->protocol == IPPROTO_UDPLITE) {
        struct udp_ports udp;

        if (load_transport(ctx, packet, &udp, sizeof(udp)))
            return TRUNCATED;
        packet->sport = bpf_ntohs(udp.source);
        packet->dport = bpf_ntohs(udp.dest);
        packet->payload_at = packet->transport_at + sizeof(udp);
        return NO_PROBLEM;
    }
    return packet->protocol == IPPROTO_ESP ? ENCRYPTED : NO_PORTS;
}

/* Parse the IP header and what follows it, up to the transport header. */
static __always_inline u8 parse_ipv4(void *ctx, struct packet *packet)
{
    struct iphdr ip;
    u16 fragment;

    if (LOAD(ctx, packet->ip_at, &ip, sizeof(ip)))
        return TRUNCATED;
    if (ip.version != 4 || ip.ihl < 5)
        return MALFORMED;
    packet->version = 4;
    packet->protocol = ip.protocol;
    packet->ip_length = bpf_ntohs(ip.tot_len);
    packet->transport_at = packet->ip_at + ip.ihl * 4;
    map_ipv4(&packet->saddr, ip.saddr);
    map_ipv4(&packet->daddr, ip.daddr);
    fragment = bpf_ntohs(ip.frag_off);
    packet->fragment = (fragment & (IPV4_OFFSET_MASK | IPV4_MORE_FRAGMENTS)) != 0;
    if (packet->ip_length < ip.ihl * 4 && !(packet->ip_length == 0 && is_giant(ctx)))
        return MALFORMED;
    packet->fragment_at = (fragment & IPV4_OFFSET_MASK) * 8;
    if (packet->fragment_at)
        return LATER_FRAGMENT;
    if (packet->protocol == IPPROTO_AH) {
        struct extension extension;

        if (load_transport(ctx, packet, &extension, sizeof(extension)))
            return TRUNCATED;
        if (extension.length < LEAST_AH)
            return MALFORMED;
        packet->protocol = extension.next;
        packet->transport_at += (extension.length + 2) * 4;
    }
    return NO_PROBLEM;
}

static __always_inline u8 parse_ipv6(void *ctx, struct packet *packet)
{
    struct ipv6hdr ip;
    u32 payload_length;
    u8 next;

    if (LOAD(ctx, packet->ip_at, &ip, sizeof(ip)))
        return TRUNCATED;
    if (ip.version != 6)
        return MALFORMED;
    packet->version = 6;
    payload_length = bpf_ntohs(ip.payload_len);
    packet->ip_length = payload_length || !is_giant(ctx) ? payload_length + sizeof(ip) : 0;
    packet->transport_at = packet->ip_at + sizeof(ip);
    __builtin_memcpy(&packet->saddr, &ip.saddr, sizeof(packet->saddr));
    __builtin_memcpy(&packet->daddr, &ip.daddr, sizeof(packet->daddr));
    next = ip.nexthdr;
#pragma unroll
    for (int i = 0; i <= MOST_EXTENSION_HEADERS; i++) {
        struct extension extension;

        FORGET_VALUES();
        packet->protocol = next;
        if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT &&
            next != IPPROTO_AH)
            return NO_PROBLEM;
        if (i == MOST_EXTENSION_HEADERS)
            return TOO_MANY_HEADERS;
        if (load_transport(ctx, packet, &extension, sizeof(extension)))
            return TRUNCATED;
        next = extension.next;
        if (packet->protocol == IPPROTO_FRAGMENT) {
            u16 fragment = bpf_ntohs(extension.fragment);

            packet->transport_at += 8;
            packet->fragment |= (fragment & (IPV6_OFFSET_MASK | IPV6_MORE_FRAGMENTS)) != 0;
            packet->fragment_at = fragment & IPV6_OFFSET_MASK;
            if (packet->fragment_at) {
                packet->protocol = next;
                return LATER_FRAGMENT;
            }
        } else if (packet->protocol == IPPROTO_AH) {
            if (extension.length < LEAST_AH)
                return MALFORMED;
            packet->transport_at += (extension.length + 2) * 4;
        } else {
            packet->transport_at += (extension.length + 1) * 8;
        }
    }
    return TOO_MANY_HEADERS;
}

/* Parse from the IP header on. The caller has set `ip_at` and `ethertype`. */
static __always_inline void parse_network(void *ctx, struct packet *packet)
{
    packet->problem = packet->ethertype == ETH_P_IP     ? parse_ipv4(ctx, packet)
                      : packet->ethertype == ETH_P_IPV6 ? parse_ipv6(ctx, packet)
                                                        : NOT_IP;
    FORGET_VALUES();
    if (!packet->problem)
        packet->problem = parse_transport(ctx, packet);
    FORGET_VALUES();
}

#if NO_ETHERNET
/* Parse from the IP header on. At ingress some tunnels (GRE, xfrm) leave headers of the packet that carried this one
 * before it: `ip_at` is the number of their bytes. */
static __always_inline void parse_frame(struct __sk_buff *ctx, struct packet *packet)
{
    const void *head = NULL, *data = NULL;
    u16 network = 0;

    kernel_read(&head, ctx, FIELD(sk_buff, head));
    kernel_read(&data, ctx, FIELD(sk_buff, data));
    kernel_read(&network, ctx, FIELD(sk_buff, network_header));
    packet->ip_at = head + network - data;
    packet->ethertype = bpf_ntohs(ctx->protocol);
    if (packet->ethertype)
        parse_network(ctx, packet);
    else /* sent from a packet socket, and neither IPv4 nor IPv6: ip_tunnel_parse_protocol() */
        packet->problem = MALFORMED;
}
#else
/* Parse from the Ethernet header on. `packet` is all zero except for a tag that the device has removed. */
static __always_inline void parse_frame(void *ctx, struct packet *packet)
{
    struct ethhdr ethernet;
    struct vlan_tag tag;

    packet->problem = TRUNCATED;
    if (LOAD(ctx, 0, &ethernet, sizeof(ethernet)))
        return;
    packet->ethertype = bpf_ntohs(ethernet.h_proto);
    packet->ip_at = sizeof(ethernet);
#pragma unroll
    for (int i = 0; i < MOST_TAGS; i++) {
        if (!is_vlan(packet->ethertype) || packet->tags == MOST_TAGS)
            break;
        if (LOAD(ctx, packet->ip_at, &tag, sizeof(tag)))
            return;
        add_tag(packet, bpf_ntohs(tag.tci));
        packet->ethertype = bpf_ntohs(tag.ethertype);
        packet->ip_at += sizeof(tag);
        FORGET_VALUES();
    }
    parse_network(ctx, packet);
}
#endif

/* Return the number of bytes before the frame: it begins with Ethernet, or without Ethernet headers with IP. */
static __always_inline u32 frame_at(const struct packet *packet)
{
    return NO_ETHERNET ? packet->ip_at : 0;
}

/* Return the number of bytes behind the transport header. Short frames are padded, so the length in the IP header counts.
 * It can be wrong, so they are no more than the frame has. */
static __always_inline u32 payload_length(const struct packet *packet, u32 frame_length)
{
    u32 end = packet->ip_length ? packet->ip_at + packet->ip_length : frame_length;

    if (end > frame_length)
        end = frame_length;
    return packet->payload_at && end > packet->payload_at ? end - packet->payload_at : 0;
}
