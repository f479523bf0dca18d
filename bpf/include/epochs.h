/* For probes that add up in the kernel: the epoch that a total belongs to.
 *
 * The probe declares a hash map `totals` whose key has a member `u32 epoch`. The reader begins a new epoch, waits until no
 * program can still be at work in the old one, and takes the old one's totals out: nothing is counted twice or dropped
 * between reading and clearing (lab/ebpf/totals.py).
 */
#pragma once

BPF_ARRAY(epochs, u32, 1);

static inline u32 current_epoch(void)
{
    int only = 0;
    u32 *epoch = epochs.lookup(&only);

    return epoch ? *epoch : 0;
}
