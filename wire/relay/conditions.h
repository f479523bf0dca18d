/* The wire's decision about a frame: a pure function of the conditions, the frame and its ordinal.
 *
 * No decision depends on time. Each is a hash of the seed, the direction, the frame's ordinal under these conditions
 * and the kind of decision. The same sequence of frames therefore gets the same decisions. A change of one condition
 * does not change the decisions of the others. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_DROPS 64
#define ETHERNET_HEADER 14

struct conditions {
    int64_t delay_ns;
    int64_t jitter_ns;
    double loss; /* a fraction from 0 to 1, like the next three */
    double duplicate;
    double reorder;
    double corrupt;
    uint64_t rate_bps; /* 0: unlimited */
    uint64_t limit;    /* maximum number of queued frames */
    uint64_t seed;
    uint64_t drops[MAX_DROPS]; /* ordinals, counted from 1, of frames to drop */
    unsigned int drop_count;
    int64_t since_ns; /* they apply to frames that arrive from this time on (CLOCK_MONOTONIC) */
    uint32_t number;  /* 0 for the first conditions of the wire, 1 for the next */
    uint64_t seen;    /* frames decided under these conditions */
};

struct decision {
    bool lost;
    bool copied;
    bool hurried;        /* the frame overtakes the queued ones */
    int32_t flipped_bit; /* counted from the frame's start; -1: none */
    int64_t jitter_ns;
};

enum salt { LOSS, DUPLICATE, REORDER, CORRUPT, WHICH_BIT, JITTER };

/* The finaliser of SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
    return value ^ (value >> 31);
}

static inline uint64_t drawn(const struct conditions *conditions, int direction, uint64_t ordinal, enum salt salt)
{
    uint64_t stream = mix(conditions->seed + 0x9e3779b97f4a7c15 * (uint64_t)(16 * direction + (int)salt + 1));
    return mix(stream + 0x9e3779b97f4a7c15 * ordinal);
}

static inline bool happens(double fraction, uint64_t drawn)
{
    return (double)(drawn >> 11) * 0x1p-53 < fraction;
}

/* Return true for ARP (RFC 826) and ICMPv6 types 133 to 137 (RFC 4861), which the conditions do not affect. */
static inline bool resolves_addresses(const uint8_t *frame, size_t length)
{
    if (length < ETHERNET_HEADER)
        return false;
    unsigned int type = frame[12] << 8 | frame[13];
    bool icmp6 = type == 0x86dd && length > ETHERNET_HEADER + 40 && frame[ETHERNET_HEADER + 6] == 58;
    unsigned int message = icmp6 ? frame[ETHERNET_HEADER + 40] : 0;
    return type == 0x0806 || (message >= 133 && message <= 137);
}

static inline struct decision decide(struct conditions *c, int direction, const uint8_t *frame, size_t length)
{
    struct decision decision = {.flipped_bit = -1};
    if (resolves_addresses(frame, length))
        return decision;
    uint64_t ordinal = ++c->seen;
    decision.lost = happens(c->loss, drawn(c, direction, ordinal, LOSS));
    for (unsigned int i = 0; i < c->drop_count; i++)
        decision.lost |= c->drops[i] == ordinal;
    decision.copied = happens(c->duplicate, drawn(c, direction, ordinal, DUPLICATE));
    decision.hurried = happens(c->reorder, drawn(c, direction, ordinal, REORDER));
    /* Not in the Ethernet header: the host would ignore a frame for another address. */
    if (length > ETHERNET_HEADER && happens(c->corrupt, drawn(c, direction, ordinal, CORRUPT))) {
        uint64_t bits = 8 * (length - ETHERNET_HEADER);
        decision.flipped_bit = 8 * ETHERNET_HEADER + drawn(c, direction, ordinal, WHICH_BIT) % bits;
    }
    if (c->jitter_ns)
        decision.jitter_ns = drawn(c, direction, ordinal, JITTER) % (2 * c->jitter_ns + 1) - c->jitter_ns;
    return decision;
}

static inline int64_t transmission_ns(const struct conditions *conditions, size_t length)
{
    return conditions->rate_bps ? (int64_t)((length * 8000000000ULL + conditions->rate_bps - 1) / conditions->rate_bps)
                                : 0;
}
