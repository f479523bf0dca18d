/* Histograms with buckets by powers of two. */
#pragma once

#include <linux/types.h>

#define LOG2_SLOTS 32

/* Return the slot of a value: 0 for 0 and 1, n for 2^n to 2^(n+1) - 1. */
static inline u32 log2_slot(u32 value)
{
    u32 slot = 0;

#pragma unroll
    for (int bits = LOG2_SLOTS / 2; bits; bits /= 2) {
        if (value >> bits) {
            value >>= bits;
            slot += bits;
        }
    }
    return slot;
}
