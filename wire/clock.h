/* CLOCK_MONOTONIC, and the conversion of the kernel's receive stamps (CLOCK_REALTIME) to it. */
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

/* Bounds of CLOCK_REALTIME minus CLOCK_MONOTONIC. Slewing changes both clocks by the same amount. The difference is
 * therefore constant until the wall clock is set, and each sample can only narrow the interval. */
struct offset {
    int64_t low_ns;
    int64_t high_ns;
};

static inline struct offset sample_offset(void)
{
    int64_t before = now_ns(), real = read_clock(CLOCK_REALTIME), after = now_ns();
    /* 1 ns: both clocks are rounded down. */
    return (struct offset){real - after - 1, real - before + 1};
}

/* Narrow `known` by a new sample. Return false if the wall clock was set; `known` then includes both offsets. */
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

/* Take a sample, and narrow it by many others. Return how often the wall clock was set meanwhile. */
static inline uint64_t settle(struct offset *known)
{
    uint64_t sets = 0;

    *known = sample_offset();
    for (int i = 0; i < 100; i++)
        sets += !narrow(known);
    return sets;
}
