/* How often, on the CPU where it is run, each raw tracepoint was hit by the kernel's own count and not by a program's: both are read
 * at one moment, in an interrupt. Attached nowhere: lab/ebpf/audit.py has the kernel run it, on each CPU. */
#include "include/second_run.h"

#define EVENTS 8 /* as many as `runs` has */

/* As in include/uapi/linux/bpf.h. */
struct count {
    u64 counter;
    u64 enabled;
    u64 running;
};

struct unseen {
    s64 events[EVENTS];
};

/* Perf's counters of the CPU that is read, numbered as `runs`, which is the audited program's own. */
BPF_PERF_ARRAY(hits, EVENTS);
BPF_ARRAY(unseen, struct unseen, 1);

static __always_inline void compare(struct unseen *found, int event)
{
    struct count count = {};
    int number = event; /* what a helper is given a pointer to is no constant any more */
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
    /* No loop: the verifier of 5.10 would lose sight of where it is. */
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
