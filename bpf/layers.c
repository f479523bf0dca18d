/* The times of TCP's data at each stage on both hosts, from the write() of one application to the read() of the other.
 *
 * -DPORT=n   local or remote port if none is chosen (9999)
 *
 * Packets are observed at TC and cgroup_skb, where the kernel withholds none, and at tracepoints only if there is no
 * other hook. Segments without data are ignored, except those with SYN, FIN or RST.
 */
#define READ typed_read

#include "include/kernel_functions.h"
#include "layers/calls.h"
#include "layers/segments.h"
#include "layers/waiters.h"
#include "include/second_run.h"

/* The probe's attach points with a second program, numbered for note_run() in second_run.h. */
enum slot { SLOT_READY };

/* Note the thread whose wait in poll() or a similar call ends, since the socket announces data. */
static inline void note_waiter(const void *tcp)
{
    struct call none = {}, *call;
    u64 thread = waiting_thread(tcp);

    if (!thread)
        return;
    call = under_way.lookup_or_try_init(&thread, &none);
    if (!call) {
        count_lost();
        return;
    }
    call->woken_ns = bpf_ktime_get_ns();
    call->woken_by = (u64)tcp;
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
    note_waiter(tcp);
    point = new_point(POINT_READY);
    if (!point)
        return 0;
    fill_ends(point, &ends, false);
    typed_read(&point->seq, tcp, FIELD(tcp_sock, rcv_nxt));
    events.ringbuf_submit(point, BPF_RB_NO_WAKEUP);
    return 0;
}

/* Runs in softirq, and in a thread that releases a socket for which segments arrived while it was held. */
#if ATTACH_TRACEPOINT
ON_TP_BTF(sk_data_ready)
{
    first_run(EVENT(sk_data_ready), SLOT_READY, ctx->args[0], is_held((const void *)ctx->args[0]));
    return report_ready((const void *)ctx->args[0]);
}

#else
ON_FUNCTION(sock_def_readable)
{
    note_run(SLOT_READY, ARGUMENT(0), is_held((const void *)ARGUMENT(0)));
    return report_ready((const void *)ARGUMENT(0));
}
#endif

/* Since Linux 6.2 sock_def_readable() has the tracepoint. The loader looks up this member because the text mentions it:
 * FIELD(trace_event_raw_sk_data_ready, skaddr). */
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
