/* Reads members of kernel objects, at the offsets that the BTF of the running kernel gives. */
#pragma once

#include "include/attach_points.h"

/* FIELD(struct, member[, member of the member]) stands for the offset and size that this kernel's BTF gives, and the number of the struct
 * there. The loader finds each mention in the source and passes the numbers on the compiler's command line. */
#define FIELD(...) FIELD_OF_DEPTH(__VA_ARGS__, FIELD_3, FIELD_2)(__VA_ARGS__)
#define FIELD_OF_DEPTH(a, b, c, chosen, ...) chosen
#define FIELD_2(type, member) OFFSET__##type##__##member, SIZE__##type##__##member, TYPE__##type
#define FIELD_3(type, member, inner)                                                                                   \
    OFFSET__##type##__##member##__##inner, SIZE__##type##__##member##__##inner, TYPE__##type

/* A function of the kernel that programs may call (a kfunc), for the compiler a helper of a number that none has: the loader gives the
 * number, and makes the call what it is (KFUNCS in lab/ebpf/source.py). */
#define KFUNC(name) ((void *)KFUNC__##name)

/* What the verifier takes to be a struct of the given number, whatever is there: for reading only, and what cannot be read arrives as
 * zero. Since Linux 6.2; costs nothing, where the helper that copies takes 11 to 19 ns for each member. -DLOADS=0 leaves it to that. */
#ifndef KFUNC__bpf_rdonly_cast
#undef LOADS
#define LOADS 0
#elif !defined(LOADS)
#define LOADS 1
#endif
#if LOADS
static void *(*const rdonly_cast)(const void *address, u32 type) = KFUNC(bpf_rdonly_cast);
#endif

/* Loads a member of what the verifier knows the type of. */
#define LOAD_MEMBER(to, base, offset, size)                                                                            \
    ({                                                                                                                 \
        _Static_assert(sizeof(*(to)) == (size), "the variable is not as wide as the kernel's member");                 \
        *(to) = *(const volatile typeof(*(to)) *)((const void *)(base) + (offset));                                    \
    })

/* Reads a member of the kernel object at `base` into `*to`, which must be exactly as wide: a half-read port is
 * worse than none. What cannot be read arrives as zero. */
#define kernel_read(to, base, field) KERNEL_READ(to, base, field)
#if LOADS
#define KERNEL_READ(to, base, offset, size, type) LOAD_MEMBER(to, rdonly_cast((const void *)(base), type), offset, size)
#else
#define KERNEL_READ(to, base, offset, size, type)                                                                      \
    ({                                                                                                                 \
        _Static_assert(sizeof(*(to)) == (size), "the variable is not as wide as the kernel's member");                 \
        bpf_probe_read_kernel((to), (size), (const void *)(base) + (offset));                                          \
    })
#endif

/* The same, of an object whose type the verifier knows: the argument of a tracepoint (ON_TP_BTF) or, by fentry, of a function, and
 * what a member of those points to. */
#define typed_read(to, base, field) TYPED_READ(to, base, field)
#if TYPED
#define TYPED_READ(to, base, offset, size, type) LOAD_MEMBER(to, base, offset, size)
#else
#define TYPED_READ KERNEL_READ
#endif

/* The same out of a part of the object that has been copied as a whole, which costs less than a copy for each member: the array
 * `from` holds the bytes from offset `at` on. */
#define read_copied(to, from, at, field) READ_COPIED(to, from, at, field)
#define READ_COPIED(to, from, at, offset, size, type)                                                                  \
    ({                                                                                                                 \
        _Static_assert(sizeof(*(to)) == (size), "the variable is not as wide as the kernel's member");                 \
        _Static_assert((offset) >= (at) && (offset) + (size) <= (at) + sizeof(from), "the member is not in the copy"); \
        __builtin_memcpy((to), (from) + (offset) - (at), (size));                                                      \
    })

/* Where a member lies in its struct, for a pointer to the member that is to lead to the whole. */
#define offset_of(field) OFFSET_OF(field)
#define OFFSET_OF(offset, size, type) (offset)

/* A bit of a flag word, by its enumerator's value. */
#define has_flag(word, value) (((word) >> (value)) & 1)
#define ENUM(type, name) ENUM__##type##__##name

/* How many arguments this kernel's tracepoint has: later kernels append some. */
#define TRACEPOINT_ARGS(event) TRACEPOINT_ARGS__##event

/* How members of a socket, or of a packet's description, are read. The file that includes this one defines READ as typed_read where it
 * hands to the functions below what the verifier knows the type of. */
#ifndef READ
#define READ kernel_read
#define READS_COPIES 1
#else
#define READS_COPIES !TYPED
#endif
