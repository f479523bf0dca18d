/* Where TCP's data is at which time, from the write() of one application to the read() of the other, on both hosts.
 *
 * -DPORT=n   the port, on either end (9999)
 *
 * Packets are seen at TC and cgroup_skb, which no machine withholds, and at tracepoints only where there is nothing else.
 * Segments without data are passed over, but for those that open or end a connection.
 */
/* clang-format off */
#define SYSTEM_CALLS(each)                                                                                             \
    each(sendto, POINT_WRITE)                                                                                          \
    each(sendmsg, POINT_WRITE)                                                                                         \
    each(write, POINT_WRITE)                                                                                           \
    each(writev, POINT_WRITE)                                                                                          \
    each(recvfrom, POINT_READ)                                                                                         \
    each(recvmsg, POINT_READ)                                                                                          \
    each(read, POINT_READ)                                                                                             \
    each(readv, POINT_READ)                                                                                            \
    each(ppoll, WAITS)                                                                                                 \
    each(pselect6, WAITS)                                                                                              \
    each(epoll_pwait, WAITS)                                                                                           \
    each(epoll_pwait2, WAITS)                                                                                          \
    OLDER_CALLS(each)

#if MACHINE_aarch64
#define OLDER_CALLS(each)
#else
#define OLDER_CALLS(each)                                                                                              \
    each(poll, WAITS)                                                                                                  \
    each(select, WAITS)                                                                                                \
    each(epoll_wait, WAITS)
#endif
/* clang-format on */

#define WAITS 255 /* no point on the way: a call in which a reader may sleep until it is told of data */

#define AT(name) 0
#define LOAD load_skb

#define READ typed_read

#include "functions.h"
#include "layers.h"
#include "packet.h"
#include "syscalls.h"

#define LONGEST_CALL 0x7ffff000      /* MAX_RW_COUNT */
#define NOP_NOP_TIMESTAMP 0x0101080a /* what tcp_options_write() begins the options of an established connection with */

/* Which of the probe's points is under way on this CPU (first_run() in lab.h). */
enum slot { SLOT_READY };

/* What a thread is at: a call on a socket (`skaddr`), a wait for one (`waits`), or nothing of interest. `told_ns` is when it last came
 * out of such a wait in which it had slept. The ends are noted at the entry: a RST may come meanwhile, and clears the local port. */
struct call {
    u64 enter_ns;
    u64 skaddr;
    u64 awake_ns;
    u64 told_ns;
    u64 sleeps;
    u32 ends[10]; /* struct endpoints: of a map's values BCC knows no inner structs */
    u32 seq;
    u8 at;
    u8 waits;
    u8 unused[2];
};

_Static_assert(sizeof(((struct call *)0)->ends) == sizeof(struct endpoints), "the ends of a socket do not fit");

/* By thread, which keeps its entry from call to call: that costs less than making one for each. The loader empties maps of this
 * name when the programs are detached. */
BPF_TABLE("lru_hash", u64, struct call, under_way, 65536);

/* Tells whether a socket has the port: most end here. */
static inline bool is_observed(const struct common *common)
{
    u16 lport = 0, rport = 0;

    common_read(&lport, common, FIELD(sock_common, skc_num));
    common_read(&rport, common, FIELD(sock_common, skc_dport));
    return has_port(lport, bpf_ntohs(rport));
}

/* How far the application has written, or read. */
static inline u32 stream_position(const void *sk, u8 at)
{
    u32 seq = 0;

    if (at == POINT_WRITE)
        kernel_read(&seq, sk, FIELD(tcp_sock, write_seq));
    else
        kernel_read(&seq, sk, FIELD(tcp_sock, copied_seq));
    return seq;
}

/* How often the current task has given up its processor to wait for something. */
static inline u64 sleeps_so_far(void)
{
    unsigned long count = 0;

    task_read(&count, current_task(), FIELD(task_struct, nvcsw));
    return count;
}

static inline int enters(u32 fd, u8 kind, u8 point)
{
    struct call none = {}, *call;
    struct common common;
    u64 thread = bpf_get_current_pid_tgid();
    const void *sk;

    if (kind == WAITS) {
        call = under_way.lookup(&thread);
        if (call) {
            call->waits = 1;
            call->sleeps = sleeps_so_far();
        }
        return 0;
    }
    sk = socket_of(fd, &common);
    if (!sk || !is_observed(&common) || !is_64_bit())
        return 0;
    call = under_way.lookup_or_try_init(&thread, &none);
    if (!call) {
        count_lost();
        return 0;
    }
    call->skaddr = (u64)sk;
    read_endpoints((struct endpoints *)call->ends, &common);
    call->at = kind;
    call->seq = stream_position(sk, kind);
    call->awake_ns = 0;
    call->sleeps = kind == POINT_READ ? sleeps_so_far() : 0;
    call->enter_ns = bpf_ktime_get_ns();
    return 0;
}

/* The file may have been closed meanwhile by another thread, and what is at the socket's address be another one: then it has not got
 * so much further. */
static inline void report_call(const struct call *call, s64 result)
{
    u32 length = stream_position((const void *)call->skaddr, call->at) - call->seq;
    struct point *point;

    if (call->at == POINT_READ && length == result + 1) /* with the last data the peer's FIN, which has a number too */
        length = result;
    if (!length || length > LONGEST_CALL)
        return;
    point = new_point(call->at);
    if (!point)
        return;
    fill_ends(point, (const struct endpoints *)call->ends, call->at == POINT_WRITE);
    point->enter_ns = call->enter_ns;
    if (call->at == POINT_READ) {
        point->awake_ns = call->awake_ns;
        point->told_ns = call->told_ns;
    }
    point->seq = call->seq;
    point->length = length;
    events.ringbuf_submit(point, BPF_RB_NO_WAKEUP);
}

static inline int returns(s64 result)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct call *call = under_way.lookup(&thread);

    if (!call)
        return 0;
    if (call->waits) {
        call->waits = 0;
        if (sleeps_so_far() != call->sleeps)
            call->told_ns = bpf_ktime_get_ns();
        return 0;
    }
    if (!call->skaddr)
        return 0;
    if (result > 0)
        report_call(call, result);
    call->skaddr = 0;
    return 0;
}

/* The reader runs, and takes what has come: in its own system call, never in an interrupt. */
#if PLAIN_TRACEPOINTS
ON_TRACEPOINT(skb_copy_datagram_iovec)
#else
ON_TP_BTF_UNAUDITED(skb_copy_datagram_iovec)
#endif
{
    u64 thread = bpf_get_current_pid_tgid(), sleeps;
    struct call *call = under_way.lookup(&thread);

    if (!call || !call->skaddr || call->at != POINT_READ)
        return 0;
    sleeps = sleeps_so_far();
    if (sleeps == call->sleeps)
        return 0;
    call->sleeps = sleeps;
    call->awake_ns = bpf_ktime_get_ns();
    return 0;
}

/* What TCP's header says, with `length` bytes of data behind it; `netns` is where the segment is. */
static inline void report_segment(u8 at, const struct packet *packet, u32 length, u32 tsval, u32 netns)
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

/* At the hooks of TC and cgroup_skb, whose context is the packet itself; `netns` is where it is, 0: that of its device. */
static __always_inline void report_packet(struct __sk_buff *ctx, u8 at, struct packet *packet, u32 netns)
{
    struct timestamp option = {};
    u32 end;

    if (packet->problem || packet->protocol != IPPROTO_TCP || !has_port(packet->sport, packet->dport))
        return;
    end = packet->ip_length ? packet->ip_at + packet->ip_length : ctx->len;
    if (packet->payload_at >= packet->transport_at + 20 + 12)
        bpf_skb_load_bytes(ctx, packet->transport_at + 20, &option, sizeof(option));
    if (!netns)
        netns = netns_of_context(ctx);
    if (is_watched(netns))
        report_segment(at, packet, end > packet->payload_at ? end - packet->payload_at : 0, tsval_of(&option), netns);
}

static __always_inline int at_tc(struct __sk_buff *ctx, u8 at)
{
    struct packet packet = {};

    parse_frame(ctx, &packet);
    report_packet(ctx, at, &packet, 0);
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

/* Runs inside tcp_v4_rcv() and tcp_v6_rcv(), when they have found the socket. */
ON_CGROUP_SKB(ingress)
{
    struct packet packet = {.ethertype = bpf_ntohs(ctx->protocol)};
    struct bpf_sock *found = ctx->sk;
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
    parse_network(ctx, &packet);
    report_packet(ctx, POINT_TCP_IN, &packet, netns_of(net));
    return 1;
}

/* Where IP's header and TCP's are in a packet, as far as they are looked at, when nothing is between them. */
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

/* At a tracepoint, by what the packet's own memory says; its headers are not in pages, as the kernel sees to (eth_type_trans(),
 * ip_output()). They are copied together: what is behind the packet's end does no harm. A packet with IPv6 extension headers is passed
 * over. */
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
    if (at == POINT_DEVICE_IN) { /* what comes in begins with the network header, which is not noted yet */
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
    if (!has_port(packet.sport, packet.dport))
        return 0;
    packet.seq = bpf_ntohl(tcp.seq);
    packet.flags = ((u8 *)&tcp)[13];
    length = packet.ip_length;
    if (!length) { /* longer than its header can say */
        typed_read(&length, skb, FIELD(sk_buff, len));
        length -= ip_header - data;
    }
    header += tcp.doff * 4;
    report_segment(at, &packet, length > header ? length - header : 0, tcp.doff >= 8 ? tsval_of(&option) : 0, netns);
    return 0;
}

/* With softirqs off, so that nothing can interrupt it that comes here too. */
ON_TP_BTF(net_dev_start_xmit)
{
    runs.increment(EVENT(net_dev_start_xmit));
    return report_skb((const void *)ctx->args[0], POINT_DEVICE_OUT);
}

/* In softirq, or with softirqs off. */
ON_TP_BTF(netif_receive_skb)
{
    runs.increment(EVENT(netif_receive_skb));
    return report_skb((const void *)ctx->args[0], POINT_DEVICE_IN);
}

static inline int report_ready(const void *sk)
{
    struct endpoints ends = {};
    struct common common;
    struct point *point;
    const void *tcp;
    u8 state = 0;

    see_common(&common, sk);
    if (!is_observed(&common))
        return 0;
    tcp = tcp_of(sk);
    if (!tcp)
        return 0;
    common_read(&state, &common, FIELD(sock_common, skc_state));
    if (state == TCP_LISTEN)
        return 0;
    read_endpoints(&ends, &common);
    if (!is_watched(ends.netns))
        return 0;
    point = new_point(POINT_READY);
    if (!point)
        return 0;
    fill_ends(point, &ends, false);
    typed_read(&point->seq, tcp, FIELD(tcp_sock, rcv_nxt));
    events.ringbuf_submit(point, BPF_RB_NO_WAKEUP);
    return 0;
}

/* Mostly in softirq, but in a process that has kept the socket to itself when that is let go. */
#if ATTACH_TRACEPOINT
ON_TP_BTF(sk_data_ready)
{
    first_run(EVENT(sk_data_ready), SLOT_READY, ctx->args[0]);
    return report_ready((const void *)ctx->args[0]);
}

#else
ON_FUNCTION(sock_def_readable)
{
    note_run(SLOT_READY, ARGUMENT(0));
    return report_ready((const void *)ARGUMENT(0));
}
#endif

/* Linux 6.2 has the tracepoint in that function: FIELD(trace_event_raw_sk_data_ready, skaddr). */
#if ATTACH_TRACEPOINT || (ATTACH_KPROBE && defined(OFFSET__trace_event_raw_sk_data_ready__skaddr))
ON_TP_BTF_AGAIN(sk_data_ready)
{
    return rescues(SLOT_READY, ctx->args[0]) ? report_ready((const void *)ctx->args[0]) : 0;
}
#else
ON_FUNCTION_AGAIN(sock_def_readable)
{
    return rescues(SLOT_READY, ARGUMENT(0)) ? report_ready((const void *)ARGUMENT(0)) : 0;
}
#endif
