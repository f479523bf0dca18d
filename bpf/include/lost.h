/* The count of events that found no room in a buffer or map. */
#pragma once

#include <linux/types.h>

BPF_ARRAY(lost, u64, 1); /* sum of all CPUs */

static inline void count_lost(void)
{
    lost.atomic_increment(0);
}

/* For an skb that stands for several packets. */
static inline void count_lost_many(u64 events)
{
    lost.atomic_increment(0, events);
}

static inline u64 lost_so_far(void)
{
    int only = 0;
    u64 *count = lost.lookup(&only);

    return count ? *count : 0;
}
