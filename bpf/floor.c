/* The least that a probe can do for an event: read the clock, and reserve and submit a record of -DSIZE bytes.
 *
 * The bench compares the cost of each probe with it (lab/bench/chapters/floor.py). -DAT_SEGMENT=1 and the like choose the
 * event; by default it is a change of state. -DEMPTY=1 leaves out even that.
 */
#include "include/attach_points.h"
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#ifndef SIZE
#define SIZE 64
#endif

struct record {
    u64 time_ns;
    u8 rest[SIZE - 8];
};

#if !EMPTY
#include "include/ring.h"
BPF_RINGBUF_OUTPUT(events, 8192);
#endif

static __always_inline void report(void)
{
#if !EMPTY
    struct record *record = reserve(sizeof(struct record));

    if (!record) {
        count_lost();
        return;
    }
    record->time_ns = bpf_ktime_get_ns();
    events.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
#endif
}

#if AT_SEGMENT
ON_TP_BTF_UNAUDITED(tcp_probe)
{
    report();
    return 0;
}
#elif AT_FRAME
ON_TC(ingress)
{
    report();
    return TC_ACT_UNSPEC;
}

ON_TC(egress)
{
    report();
    return TC_ACT_UNSPEC;
}
#elif AT_ARRIVAL
ON_XDP(frame)
{
    report();
    return XDP_PASS;
}
#else
ON_TP_BTF_UNAUDITED(inet_sock_set_state)
{
    report();
    return 0;
}
#endif
