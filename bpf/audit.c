/* The audit: for each raw tracepoint of a probe, the kernel's count of hits minus the probe's count of runs, on the CPU
 * where this program runs.
 *
 * The program is attached nowhere. lab/ebpf/audit.py runs it on each CPU, in an interrupt, so that both counts are read
 * at the same time. */
#include "include/second_run.h"

#define EVENTS 8 /* the size of `runs` in second_run.h */

/* As in include/uapi/linux/bpf.h. */
struct count {
    u64 counter;
    u64 enabled;
    u64 running;
};

struct unseen {
    s64 events[EVENTS];
};

/* Perf counters of this CPU, with the indexes of `runs`. The loader replaces `runs` by that of the audited program. */
BPF_PERF_ARRAY(hits, EVENTS);
BPF_ARRAY(unseen, struct unseen, 1);

static __always_inline void compare(struct unseen *found, int event)
{
    struct count count = {};
    int number = event; /* a copy: passing a pointer to `event` would make it a variable */
    u64 *seen = runs.lookup(&number);

    if (seen && !hits.perf_counter_value(event, &count, sizeof(count)))
        found->events[event] = count.counter - *seen;
}

ON_RAW_TRACEPOINT(audit)
{
    int only = 0;
    struct unseen *found = unseen.lookup(&only);

    if (!found)
        return 0;
    /* No loop: the verifier of Linux 5.10 would not know the index. */
    compare(found, 0);
    compare(found, 1);
    compare(found, 2);
    compare(found, 3);
    compare(found, 4);
    compare(found, 5);
    compare(found, 6);
    compare(found, 7);
    return 0;
}
