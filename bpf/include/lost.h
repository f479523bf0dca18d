/* Counts the events that found no room. */
#pragma once

#include <linux/types.h>

BPF_ARRAY(lost, u64, 1); /* of all CPUs together */

static inline void count_lost(void)
{
    lost.atomic_increment(0);
}

/* For an event that stands for several. */
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
