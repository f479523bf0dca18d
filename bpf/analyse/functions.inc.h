/* The steps of a connection at kernel functions, by fentry or kprobe.
 *
 * A part of analyse.c, which first defines the slots, fill_segment(), report_processed() and report_done().
 *
 * A program at a kretprobe gets no arguments. The program at the entry therefore stores those that the return needs.
 */
#pragma once

/* A call of a function of TCP in progress. Its socket is locked, or will be. */
struct entry {
    u64 time_ns;
    u64 skaddr;
};

BPF_HASH(under_way_functions, u64, struct entry, 65536); /* by thread */

/* Count the missed return of the thread's last function as lost, if there is one. Returns are missed
 * - by fexit, for the calls in progress when any program attaches to the function or detaches (bpf_tramp_image_put()),
 * - by kretprobe, if more calls are in progress than it has room for.
 * A missed return is found when the system call returns. If the call is not observed, it is found when the thread next
 * enters a function. */
static inline void forget_function(u64 thread)
{
    if (!under_way_functions.lookup(&thread))
        return;
    under_way_functions.delete(&thread);
    count_lost();
}

/* `may_nest`: the function can be called by another one that is observed. */
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

/* is_held() for an argument of a function. By fentry the verifier knows its type. */
static inline bool is_argument_held(u64 sk)
{
    return is_lock_held((const void *)sk, ATTACH_FENTRY);
}

/* Programs at a function that threads reach. By fentry there are two, since threads are preempted in such programs: see
 * second_run.h. By kprobe there is one: no thread is preempted in it, and a second one would be withheld with it. */
#if ATTACH_FENTRY
#define EITHER(first, second, slot, reports)                                                                           \
    first                                                                                                              \
    {                                                                                                                  \
        note_run(slot, ARGUMENT(0), is_argument_held(ARGUMENT(0)));                                                    \
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

/* Calls can be nested, and only the inner call is reported. tcp_v6_connect() calls tcp_v4_connect() for an IPv4-mapped
 * address. tcp_sendmsg() with MSG_FASTOPEN calls either of them (tcp_sendmsg_fastopen()). */
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
    if (taken_by(ARGUMENT_OF(tcp_recvmsg, flags)) != TAKES_DATA)
        under_way_functions.delete(&thread);
    return 0;
}

ON_RETURN(tcp_recvmsg)
{
    return returns_from_function(KIND_RECEIVED, AT_tcp_recvmsg, RETURNED(tcp_recvmsg));
}

#endif

/* sendfile() passes pages to TCP up to Linux 6.4, messages since 6.5. */
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

/* Report a packet that reaches TCP. The endpoints come from its headers: TCP has not looked up the socket yet, unless
 * early demultiplexing has. */
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
    /* Return here, before further code: if the compiler tests `step` a second time, verifiers before Linux 6.2 report a
     * leaked record (reg_not_null()). */
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
    note_run(SLOT_PROCESSED, ARGUMENT(1), is_argument_held(ARGUMENT(0)));
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

/* Calls of tcp_rcv_state_process() in progress for one current task. The step is reported at the return, where the new
 * state is known, but the socket may have been destroyed. There are at most two calls: a softirq can interrupt a thread
 * in this function and call it for another socket. The softirq ends before the thread resumes. */
struct nested_calls {
    u64 time_ns[2];
    u64 skaddr[2];
    u64 state[2];
    u64 depth;
};

BPF_HASH(under_way_processing, u64, struct nested_calls, 65536);

/* Return a key that stays the same from the entry of the function to its return: the thread's number, or the CPU's for
 * idle tasks, which share the number 0 and do not leave their CPU. */
static inline u64 current_context(void)
{
    u64 thread = bpf_get_current_pid_tgid();

    return thread ? thread : 1ULL << 63 | bpf_get_smp_processor_id();
}

static inline int enters_processing(const void *sk)
{
    u64 context = current_context(), time_ns = bpf_ktime_get_ns();
    struct nested_calls nothing = {};
    struct nested_calls *calls = under_way_processing.lookup_or_try_init(&context, &nothing);
    u8 state = 0;

    if (!calls) {
        count_lost();
        return 0;
    }
    kernel_read(&state, sk, FIELD(sock_common, skc_state));
    calls->time_ns[calls->depth & 1] = time_ns;
    calls->skaddr[calls->depth & 1] = (u64)sk;
    calls->state[calls->depth & 1] = state;
    calls->depth++;
    return 0;
}

static inline int leaves_processing(void)
{
    u64 context = current_context(), enter_ns, skaddr;
    struct nested_calls *calls = under_way_processing.lookup(&context);
    struct step *step;
    u8 oldstate;

    if (!calls || !calls->depth)
        return 0;
    calls->depth--;
    enter_ns = calls->time_ns[calls->depth & 1];
    skaddr = calls->skaddr[calls->depth & 1];
    oldstate = calls->state[calls->depth & 1];
    if (!calls->depth)
        under_way_processing.delete(&context);
    if (!is_watched_tcp((const void *)skaddr))
        return 0;
    step = new_step(KIND_PROCESSED, AT_tcp_rcv_state_process);
    if (!step)
        return 0;
    fill_socket(step, (const void *)skaddr);
    step->enter_ns = enter_ns; /* the reader detects a socket that was destroyed since then */
    step->oldstate = oldstate;
    step->state = state_after((const void *)skaddr, oldstate, step->state);
    events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    return 0;
}

ENTERING(tcp_rcv_state_process, SLOT_PROCESSING, enters_processing((const void *)ARGUMENT(0)))
RETURNING(tcp_rcv_state_process, SLOT_HAS_PROCESSED, leaves_processing())
