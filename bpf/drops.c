/* TCP packets that the kernel frees and does not use, with its reason: skb:kfree_skb.
 *
 * The kernel gives a reason since Linux 5.17, and the receiving socket since 6.11. A packet that a socket of this machine
 * sends has its socket on every kernel.
 */
#define READ typed_read
#include "include/ring.h"
#include "include/second_run.h"
#include "include/tcp_socket.h"
#include <linux/ip.h>
#include <linux/ipv6.h>

struct drop {
    u64 time_ns;
    u64 inode;    /* of the socket's file; 0: no socket, or one without a file */
    u8 saddr[16]; /* network order; IPv4 as ::ffff:a.b.c.d */
    u8 daddr[16];
    u32 netns;  /* inode number of the network namespace */
    u32 reason; /* enum skb_drop_reason */
    u32 seq;
    u32 length; /* of TCP header and data, by the IP header; 0 if it does not say (super-packets) */
    u16 sport;
    u16 dport;
    u8 flags;  /* of TCP */
    u8 header; /* bytes of TCP's header */
    u8 full;   /* 1: the listener that the packet was for has a full accept queue */
};

BPF_RINGBUF_OUTPUT(events, 4096);

enum point { AT_FREE };

#define IP_OFFSET 0x1fff /* of a fragment: RFC 791 */

/* Find the TCP segment of a packet: its addresses, where its header is, and its length. Return false for any other packet. */
static inline bool find_segment(struct drop *found, const void *skb, const void **segment)
{
    const void *head = NULL;
    u16 network = 0, protocol = 0;

    typed_read(&protocol, skb, FIELD(sk_buff, protocol));
    typed_read(&head, skb, FIELD(sk_buff, head));
    typed_read(&network, skb, FIELD(sk_buff, network_header));
    if (protocol == bpf_htons(ETH_P_IP)) {
        struct iphdr ip = {};

        bpf_probe_read_kernel(&ip, sizeof(ip), head + network);
        if (ip.protocol != IPPROTO_TCP || ip.version != 4 || ip.frag_off & bpf_htons(IP_OFFSET))
            return false;
        map_ipv4((struct address *)found->saddr, ip.saddr);
        map_ipv4((struct address *)found->daddr, ip.daddr);
        *segment = head + network + ip.ihl * 4;
        found->length = ip.tot_len ? bpf_ntohs(ip.tot_len) - ip.ihl * 4 : 0;
        return true;
    }
    if (protocol == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr ip = {};

        bpf_probe_read_kernel(&ip, sizeof(ip), head + network);
        if (ip.nexthdr != IPPROTO_TCP || ip.version != 6)
            return false;
        __builtin_memcpy(found->saddr, &ip.saddr, sizeof(found->saddr));
        __builtin_memcpy(found->daddr, &ip.daddr, sizeof(found->daddr));
        *segment = head + network + sizeof(ip);
        found->length = bpf_ntohs(ip.payload_len);
        return true;
    }
    return false;
}

/* The socket that the packet was for, or that sent it; NULL if there is none. */
static inline const void *socket_of(struct bpf_raw_tracepoint_args *ctx)
{
    const void *sk = NULL;

#if TRACEPOINT_ARGS(kfree_skb) >= 4
    sk = (const void *)ctx->args[3];
#endif
    if (!sk)
        typed_read(&sk, (const void *)ctx->args[0], FIELD(sk_buff, sk));
    return sk;
}

static inline bool is_full_socket(const void *sk)
{
    u8 state = 0;

    if (!sk)
        return false;
    kernel_read(&state, sk, FIELD(sock_common, skc_state));
    return state != TCP_TIME_WAIT && state <= TCP_CLOSING;
}

/* The inode number of a full socket's file, 0 without a file. Minisocks and requests have none. */
static inline u64 inode_of(const void *sk)
{
    const void *socket = NULL;
    unsigned long number = 0;

    if (!is_full_socket(sk))
        return 0;
    kernel_read(&socket, sk, FIELD(sock, sk_socket));
    if (socket)
        kernel_read(&number,
                    socket - offset_of(FIELD(socket_alloc, socket)) + offset_of(FIELD(socket_alloc, vfs_inode)),
                    FIELD(inode, i_ino));
    return number;
}

/* Return true for a listener whose accept queue is full (sk_acceptq_is_full()). The kernel gives NO_SOCKET as the reason
 * for the last ACK of a handshake that finds no room (tcp_v4_rcv()). */
static inline bool is_full(const void *sk)
{
    u32 waiting = 0, most = 0;
    u8 state = 0;

    if (!sk)
        return false;
    kernel_read(&state, sk, FIELD(sock_common, skc_state));
    if (state != TCP_LISTEN)
        return false;
    kernel_read(&waiting, sk, FIELD(sock, sk_ack_backlog));
    kernel_read(&most, sk, FIELD(sock, sk_max_ack_backlog));
    return waiting > most;
}

static inline u32 netns_of_drop(const void *skb, const void *sk)
{
    const void *dev = NULL, *net = NULL;
    u32 inum = 0;

    typed_read(&dev, skb, FIELD(sk_buff, dev));
    if (dev)
        kernel_read(&net, dev, FIELD(net_device, nd_net));
    else if (sk)
        kernel_read(&net, sk, FIELD(sock_common, skc_net));
    if (net)
        kernel_read(&inum, net, FIELD(net, ns, inum));
    return inum;
}

static inline int report(struct bpf_raw_tracepoint_args *ctx)
{
    u64 time_ns = bpf_ktime_get_ns();
    const void *skb = (const void *)ctx->args[0], *segment = NULL, *sk;
    u32 reason = ctx->args[2];
    struct drop found = {}, *event;
    struct tcphdr tcp = {};

    if (reason <= ENUM(skb_drop_reason, SKB_DROP_REASON_NOT_SPECIFIED) || !find_segment(&found, skb, &segment))
        return 0;
    sk = socket_of(ctx);
    found.netns = netns_of_drop(skb, sk);
    bpf_probe_read_kernel(&tcp, sizeof(tcp), segment);
    found.sport = bpf_ntohs(tcp.source);
    found.dport = bpf_ntohs(tcp.dest);
    if (!is_chosen_flow(found.netns, (const struct address *)found.saddr, found.sport,
                        (const struct address *)found.daddr, found.dport, is_full_socket(sk) ? sk : NULL))
        return 0;
    found.time_ns = time_ns;
    found.inode = inode_of(sk);
    found.reason = reason;
    found.full = is_full(sk);
    found.seq = bpf_ntohl(tcp.seq);
    found.flags = ((u8 *)&tcp)[13];
    found.header = tcp.doff * 4;
    event = reserve(sizeof(struct drop));
    if (!event) {
        count_lost();
        return 0;
    }
    *event = found;
    events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
    return 0;
}

ON_TP_BTF(kfree_skb)
{
    first_run(EVENT(kfree_skb), AT_FREE, ctx->args[0], false);
    return report(ctx);
}

ON_TP_BTF_AGAIN(kfree_skb)
{
    return rescues(AT_FREE, ctx->args[0]) ? report(ctx) : 0;
}
