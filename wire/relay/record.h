/* A record of the wire's log: one frame. Python maps an array of these (lab/network/frame_log.py).
 *
 * The relay prints the layout of FIELDS at its start, and Python compares it with its own. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define HEAD_BYTES 128

enum fate { FORWARDED, LOST, OVERFLOWED, REFUSED };
enum mark { COPY = 1, HURRIED = 2, CORRUPTED = 4 };

/* Times are CLOCK_MONOTONIC in nanoseconds. A pair of low and high are the earliest and the latest possible time. */
struct record {
    int64_t arrived_low_ns;
    int64_t arrived_high_ns;
    int64_t due_ns;
    int64_t sent_low_ns;  /* -1: never sent */
    int64_t sent_high_ns; /* -1: never sent */
    uint64_t ordinal;     /* number of the frame in its direction since the relay started, from 1 */
    uint32_t conditions;  /* number of the conditions that applied */
    uint32_t length;      /* bytes on the wire, from the Ethernet header to the payload's end */
    int32_t flipped_bit;  /* -1: none */
    uint8_t direction;    /* 0 to the server, 1 to the client */
    uint8_t fate;
    uint8_t marks;
    uint8_t pad;              /* keeps the size a multiple of 8 */
    uint8_t head[HEAD_BYTES]; /* beginning of the frame as it arrived; 0 beyond its end */
};

#define FIELDS(field)                                                                                                  \
    field(arrived_low_ns) field(arrived_high_ns) field(due_ns) field(sent_low_ns) field(sent_high_ns) field(ordinal)   \
        field(conditions) field(length) field(flipped_bit) field(direction) field(fate) field(marks) field(head)
