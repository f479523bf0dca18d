/* What every probe shares: how a program names its attach point, and how it reads a member of a kernel struct.
 *
 * BCC rewrites map operations in the main source file only, so nothing here touches a map.
 */
#pragma once

#include <linux/types.h>

/* The name of a function says where it is attached; the loader reads it (lab/program.py). */
#define ON_RAW_TRACEPOINT(event) int on_raw_tracepoint__##event(struct bpf_raw_tracepoint_args *ctx)

/* Attached behind the function above, at the same event. The kernel does not run a program that already runs on this
 * CPU (`recursion_misses`, since 6.2): when an interrupt comes while it is at work for a process, what the softirq does
 * would go unseen. Softirqs do not nest, so a second program, which acts when the first was left out, sees it all. */
#define ON_RAW_TRACEPOINT_AGAIN(event) int on_raw_tracepoint__##event##__again(struct bpf_raw_tracepoint_args *ctx)

/* Every probe has the maps `events`, `lost`, which counts when that ring was full, and `counters`, with these. */
enum counter {
    RUNS,    /* of the first programs, whatever they then made of the event */
    RESCUED, /* runs of the second programs in place of the first */
    COUNTERS,
};

/* FIELD(struct, member[, member of the member]) stands for the offset and size that this kernel's BTF gives.
 * The loader finds each mention in the source and passes both numbers on the compiler's command line. */
#define FIELD(...) FIELD_OF_DEPTH(__VA_ARGS__, FIELD_3, FIELD_2)(__VA_ARGS__)
#define FIELD_OF_DEPTH(a, b, c, chosen, ...) chosen
#define FIELD_2(type, member) OFFSET__##type##__##member, SIZE__##type##__##member
#define FIELD_3(type, member, inner) OFFSET__##type##__##member##__##inner, SIZE__##type##__##member##__##inner

/* Copies a member of the kernel object at `base` to `*to`, which must be exactly as wide: a half-read port is
 * worse than none. What cannot be read arrives as zero. */
#define kernel_read(to, base, field) KERNEL_READ(to, base, field)
#define KERNEL_READ(to, base, offset, size)                                                                            \
    ({                                                                                                                 \
        _Static_assert(sizeof(*(to)) == (size), "the variable is not as wide as the kernel's member");                 \
        bpf_probe_read_kernel((to), (size), (const void *)(base) + (offset));                                          \
    })

/* A bit of a flag word, by its enumerator's value. */
#define has_flag(word, value) (((word) >> (value)) & 1)
#define ENUM(type, name) ENUM__##type##__##name

/* How many arguments this kernel's tracepoint has: later kernels append some. */
#define TRACEPOINT_ARGS(event) TRACEPOINT_ARGS__##event
