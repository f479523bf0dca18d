/* The steps of a connection at the kernel's functions themselves, by fentry or kprobe.
 *
 * A return knows no arguments under kretprobe, so what is to be known there is remembered at the entry.
 */
#pragma once

/* A function of TCP that a process is in: on a socket that is locked, or about to be. */
struct entry {
    u64 time_ns;
    u64 skaddr;
};

BPF_HASH(under_way_functions, u64, struct entry, 65536); /* by thread */

/* Whoever attaches to the function or detaches makes the kernel pass over the return of calls that are under way then, for all by
 * fentry (bpf_tramp_image_put()); and a kretprobe has room for so many calls and no more. It is noticed when the system call returns, or,
 * of one that is not observed, when the thread comes again. */
static inline void forget_function(u64 thread)
{
    if (!under_way_functions.lookup(&thread))
        return;
    under_way_functions.delete(&thread);
    count_lost();
}

static inline int enters_function(const void *sk, bool may_nest)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct entry entry = {.time_ns = bpf_ktime_get_ns(), .skaddr = (u64)sk};

    if (!may_nest)
        forget_function(thread);
    if (under_way_functions.update(&thread, &entry))
        count_lost();
    return 0;
}

static inline int returns_from_function(u8 kind, u8 point, int result)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct entry *entry = under_way_functions.lookup(&thread);
    struct entry entered;

    if (!entry)
        return 0;
    entered = *entry;
    under_way_functions.delete(&thread);
    return report_done((const void *)entered.skaddr, kind, point, entered.time_ns, result);
}

/* As is_held(), of a function's argument: by fentry the verifier knows its type. */
static inline bool holds_argument(u64 sk)
{
#if ATTACH_FENTRY
    int owned = 0;

    typed_read(&owned, (const void *)sk, FIELD(sock, sk_lock, owned));
    return owned;
#else
    return is_held((const void *)sk);
#endif
}

/* What threads come to as well as softirq. A thread can be preempted in a program by fentry, which is then left out, on this CPU, of
 * whatever others do there: a second one makes up for it. In a kprobe's nobody is preempted, and a second would be left out like it. */
#if ATTACH_FENTRY
#define EITHER(first, second, slot, reports)                                                                           \
    first                                                                                                              \
    {                                                                                                                  \
        note_run(slot, ARGUMENT(0), holds_argument(ARGUMENT(0)));                                                      \
        return reports;                                                                                                \
    }                                                                                                                  \
    second                                                                                                             \
    {                                                                                                                  \
        return rescues(slot, ARGUMENT(0)) ? reports : 0;                                                               \
    }
#else
#define EITHER(first, second, slot, reports)                                                                           \
    first                                                                                                              \
    {                                                                                                                  \
        return reports;                                                                                                \
    }
#endif
#define ENTERING(name, slot, reports) EITHER(ON_FUNCTION(name), ON_FUNCTION_AGAIN(name), slot, reports)
#define RETURNING(name, slot, reports) EITHER(ON_RETURN(name), ON_RETURN_AGAIN(name), slot, reports)

/* IPv6's calls IPv4's for an IPv4-mapped address; what that has reported is not reported again. Either can be within tcp_sendmsg()
 * as well, which opens a connection with MSG_FASTOPEN (tcp_sendmsg_fastopen()). */
ENTERING(tcp_v4_connect, SLOT_OPENING, enters_function((const void *)ARGUMENT(0), true))
RETURNING(tcp_v4_connect, SLOT_OPENED, returns_from_function(KIND_OPENED, AT_tcp_v4_connect, RETURNED(tcp_v4_connect)))
ENTERING(tcp_v6_connect, SLOT_OPENING, enters_function((const void *)ARGUMENT(0), true))
RETURNING(tcp_v6_connect, SLOT_OPENED, returns_from_function(KIND_OPENED, AT_tcp_v6_connect, RETURNED(tcp_v6_connect)))

#if !SENDS_AT_TRACEPOINTS

ON_FUNCTION(tcp_sendmsg)
{
    return enters_function((const void *)ARGUMENT(0), false);
}

ON_RETURN(tcp_sendmsg)
{
    return returns_from_function(KIND_SENT, AT_tcp_sendmsg, RETURNED(tcp_sendmsg));
}

ON_FUNCTION(tcp_recvmsg)
{
    u64 thread = bpf_get_current_pid_tgid();

    enters_function((const void *)ARGUMENT(0), false);
    if (ARGUMENT_OF(tcp_recvmsg, flags) & MSG_PEEK)
        under_way_functions.delete(&thread);
    return 0;
}

ON_RETURN(tcp_recvmsg)
{
    return returns_from_function(KIND_RECEIVED, AT_tcp_recvmsg, RETURNED(tcp_recvmsg));
}

#endif

/* Until Linux 6.5 sendfile() hands pages to TCP, and later ones messages. */
#if defined(FUNCTION_ARGS__tcp_sendpage)

ON_FUNCTION(tcp_sendpage)
{
    return enters_function((const void *)ARGUMENT(0), false);
}

ON_RETURN(tcp_sendpage)
{
    return returns_from_function(KIND_SENT, AT_tcp_sendpage, RETURNED(tcp_sendpage));
}

#endif

/* The argument is a packet. Its own header tells whose it is; the socket is not looked up yet, unless early demultiplexing
 * has done it. */
static inline int report_arrived(const void *skb, u8 point, bool again)
{
    void *head, *sk;
    struct endpoints endpoints;
    struct tcphdr tcp;
    struct step *step;
    u16 network, transport;
    u32 length;

    endpoints.netns = netns_of_packet(skb);
    if (!is_watched(endpoints.netns))
        return 0;
    step = new_step(KIND_ARRIVED, point);
    /* At once: had the compiler to look again later, kernels before 6.2 would take a step for leaked (reg_not_null()). */
    if (!step)
        return 0;
    kernel_read(&head, skb, FIELD(sk_buff, head));
    kernel_read(&network, skb, FIELD(sk_buff, network_header));
    kernel_read(&transport, skb, FIELD(sk_buff, transport_header));
    kernel_read(&length, skb, FIELD(sk_buff, len));
    if (point == AT_tcp_v4_rcv) {
        struct iphdr ip = {};

        bpf_probe_read_kernel(&ip, sizeof(ip), head + network);
        map_ipv4(&endpoints.raddr, ip.saddr);
        map_ipv4(&endpoints.laddr, ip.daddr);
    } else {
        struct ipv6hdr ip = {};

        bpf_probe_read_kernel(&ip, sizeof(ip), head + network);
        __builtin_memcpy(&endpoints.raddr, &ip.saddr, sizeof(endpoints.raddr));
        __builtin_memcpy(&endpoints.laddr, &ip.daddr, sizeof(endpoints.laddr));
    }
    bpf_probe_read_kernel(&tcp, sizeof(tcp), head + transport);
    endpoints.lport = bpf_ntohs(tcp.dest);
    endpoints.rport = bpf_ntohs(tcp.source);
    fill_endpoints(step, &endpoints);
    kernel_read(&sk, skb, FIELD(sk_buff, sk));
    if (sk) {
        step->skaddr = (u64)sk;
        kernel_read(&step->state, sk, FIELD(sock_common, skc_state));
    }
    fill_segment(step, skb, &tcp, length);
    step->again = again;
    events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    return 0;
}

ON_FUNCTION(tcp_v4_rcv)
{
    note_run(SLOT_ARRIVED, ARGUMENT(0), false);
    return report_arrived((const void *)ARGUMENT(0), AT_tcp_v4_rcv, false);
}

ON_FUNCTION_AGAIN(tcp_v4_rcv)
{
    return rescues(SLOT_ARRIVED, ARGUMENT(0)) ? report_arrived((const void *)ARGUMENT(0), AT_tcp_v4_rcv, true) : 0;
}

ON_FUNCTION(tcp_v6_rcv)
{
    note_run(SLOT_ARRIVED, ARGUMENT(0), false);
    return report_arrived((const void *)ARGUMENT(0), AT_tcp_v6_rcv, false);
}

ON_FUNCTION_AGAIN(tcp_v6_rcv)
{
    return rescues(SLOT_ARRIVED, ARGUMENT(0)) ? report_arrived((const void *)ARGUMENT(0), AT_tcp_v6_rcv, true) : 0;
}

ON_FUNCTION(tcp_rcv_established)
{
    note_run(SLOT_PROCESSED, ARGUMENT(1), holds_argument(ARGUMENT(0)));
    return report_processed((const void *)ARGUMENT(0), (const void *)ARGUMENT(1), AT_tcp_rcv_established, false);
}

#if ATTACH_FENTRY

ON_FUNCTION_AGAIN(tcp_rcv_established)
{
    if (!rescues(SLOT_PROCESSED, ARGUMENT(1)))
        return 0;
    return report_processed((const void *)ARGUMENT(0), (const void *)ARGUMENT(1), AT_tcp_rcv_established, true);
}

#else

ON_RAW_TRACEPOINT_AGAIN(tcp_probe)
{
    if (!rescues(SLOT_PROCESSED, ctx->args[1]))
        return 0;
    return report_processed((const void *)ctx->args[0], (const void *)ctx->args[1], AT_tcp_rcv_established, true);
}

#endif

/* The new state is there at the return, and by then the socket may be gone. Softirq can interrupt a process in this function and run it on another socket, and
 * is done with that before the process goes on. */
struct before {
    u64 time_ns[2];
    u64 skaddr[2];
    u64 state[2];
    u64 depth;
};

BPF_HASH(under_way_processing, u64, struct before, 65536);

/* The task that is current all the while: by its number, which idle tasks share, or by its CPU, which idle tasks do not leave. */
static inline u64 current_context(void)
{
    u64 thread = bpf_get_current_pid_tgid();

    return thread ? thread : 1ULL << 63 | bpf_get_smp_processor_id();
}

static inline int begins_to_process(const void *sk)
{
    u64 context = current_context(), time_ns = bpf_ktime_get_ns();
    struct before nothing = {};
    struct before *before = under_way_processing.lookup_or_try_init(&context, &nothing);
    u8 state = 0;

    if (!before) {
        count_lost();
        return 0;
    }
    kernel_read(&state, sk, FIELD(sock_common, skc_state));
    before->time_ns[before->depth & 1] = time_ns;
    before->skaddr[before->depth & 1] = (u64)sk;
    before->state[before->depth & 1] = state;
    before->depth++;
    return 0;
}

static inline int has_processed(void)
{
    u64 context = current_context(), enter_ns, skaddr;
    struct before *before = under_way_processing.lookup(&context);
    struct step *step;
    u8 oldstate;

    if (!before || !before->depth)
        return 0;
    before->depth--;
    enter_ns = before->time_ns[before->depth & 1];
    skaddr = before->skaddr[before->depth & 1];
    oldstate = before->state[before->depth & 1];
    if (!before->depth)
        under_way_processing.delete(&context);
    if (!is_watched_tcp((const void *)skaddr))
        return 0;
    step = new_step(KIND_PROCESSED, AT_tcp_rcv_state_process);
    if (!step)
        return 0;
    fill_socket(step, (const void *)skaddr);
    step->enter_ns = enter_ns; /* the socket may have been destroyed since */
    step->oldstate = oldstate;
    step->state = state_after((const void *)skaddr, oldstate, step->state);
    events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    return 0;
}

ENTERING(tcp_rcv_state_process, SLOT_PROCESSING, begins_to_process((const void *)ARGUMENT(0)))
RETURNING(tcp_rcv_state_process, SLOT_HAS_PROCESSED, has_processed())
