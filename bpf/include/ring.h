/* The rings of the program's records, by CPU. All CPUs that write to one ring wait for its lock: two of them write fewer
 * records a second than one alone. So the loader makes several rings like `events`, one for each CPU of a small machine, and
 * puts them into `rings` (lab/ebpf/maps.py). Include this before the map `events`.
 */
#pragma once

#include "include/lost.h"

BPF_ARRAY_OF_MAPS(rings, "events", CPUS);

/* Return room for a record in the ring of this CPU, NULL if there is none. Check it at once: before Linux 6.2 the verifier
 * takes a record for leaked that the compiler compares with NULL twice. */
static __always_inline void *reserve(u64 size)
{
    int cpu = bpf_get_smp_processor_id();
    void *ring = rings.lookup(&cpu);

    return ring ? bpf_ringbuf_reserve(ring, size, 0) : NULL;
}
