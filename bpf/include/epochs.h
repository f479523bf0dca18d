/* The epoch of a total, for probes that add up in the kernel.
 *
 * The probe declares a hash map `totals` whose key has a member `u32 epoch`. The reader (lab/ebpf/totals.py)
 * - begins a new epoch,
 * - waits until no program can still add to the old one,
 * - takes the totals of the old one out.
 * No event is counted twice, and none is dropped between reading and clearing.
 */
#pragma once

#include <linux/types.h>

BPF_ARRAY(epochs, u32, 1);

static inline u32 current_epoch(void)
{
    int only = 0;
    u32 *epoch = epochs.lookup(&only);

    return epoch ? *epoch : 0;
}
