/* CLOCK_MONOTONIC, and what the kernel's receive stamps, which are CLOCK_REALTIME, mean on it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

static inline int64_t ns_of(struct timespec time)
{
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static inline int64_t read_clock(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return ns_of(time);
}

static inline int64_t now_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

/* CLOCK_REALTIME minus CLOCK_MONOTONIC lies between the two. Slewing moves both clocks alike, so the difference is constant
 * until somebody sets the wall clock, and each sample can only narrow the interval. */
struct offset {
    int64_t low_ns;
    int64_t high_ns;
};

static inline struct offset sample_offset(void)
{
    int64_t before = now_ns(), real = read_clock(CLOCK_REALTIME), after = now_ns();
    /* Both clocks are rounded down to a nanosecond. */
    return (struct offset){real - after - 1, real - before + 1};
}

/* Narrow what is known; false when the wall clock has been set, and then `known` holds before and after. */
static inline bool narrow(struct offset *known)
{
    struct offset sample = sample_offset();
    bool agree = sample.low_ns <= known->high_ns && sample.high_ns >= known->low_ns;
    if (agree == (sample.low_ns > known->low_ns))
        known->low_ns = sample.low_ns;
    if (agree == (sample.high_ns < known->high_ns))
        known->high_ns = sample.high_ns;
    return agree;
}
