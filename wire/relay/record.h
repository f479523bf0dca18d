/* One line of the wire's log: what became of one frame. Python maps an array of these (lab/network/frame_log.py).
 *
 * FIELDS is told at start-up, so that neither side can be built from another layout than the other's. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define HEAD_BYTES 128

enum fate { FORWARDED, LOST, OVERFLOWED, REFUSED };
enum mark { COPY = 1, HURRIED = 2, CORRUPTED = 4 };

/* Times are CLOCK_MONOTONIC, in nanoseconds; each pair is the earliest and the latest that it can have been. */
struct record {
    int64_t arrived_low_ns;
    int64_t arrived_high_ns;
    int64_t due_ns;
    int64_t sent_low_ns; /* -1 if it was never sent, as below */
    int64_t sent_high_ns;
    uint64_t ordinal;    /* counts the frames of its direction since the wire began, from 1 */
    uint32_t conditions; /* the number of those that applied to it */
    uint32_t length;     /* bytes on the wire, from the Ethernet header to the payload's end */
    int32_t flipped_bit; /* -1 for none */
    uint8_t direction;   /* 0 to the server, 1 to the client */
    uint8_t fate;
    uint8_t marks;
    uint8_t pad;              /* keeps the size a multiple of 8 */
    uint8_t head[HEAD_BYTES]; /* as it arrived; zero beyond its end */
};

#define FIELDS(field)                                                                                                  \
    field(arrived_low_ns) field(arrived_high_ns) field(due_ns) field(sent_low_ns) field(sent_high_ns) field(ordinal)   \
        field(conditions) field(length) field(flipped_bit) field(direction) field(fate) field(marks) field(head)
