/* Macros that read members of kernel objects, at the offsets in the running kernel's BTF. */
#pragma once

#include "include/attach_points.h"

/* FIELD(struct, member[, member of the member]): the member's offset and size and the struct's type id, from BTF. The
 * loader finds each FIELD in the text and passes the numbers to the compiler as definitions (lab/ebpf/source.py). */
#define FIELD(...) FIELD_OF_DEPTH(__VA_ARGS__, FIELD_3, FIELD_2)(__VA_ARGS__)
#define FIELD_OF_DEPTH(a, b, c, chosen, ...) chosen
#define FIELD_2(type, member) OFFSET__##type##__##member, SIZE__##type##__##member, TYPE__##type
#define FIELD_3(type, member, inner)                                                                                   \
    OFFSET__##type##__##member##__##inner, SIZE__##type##__##member##__##inner, TYPE__##type

/* A kernel function that programs may call (kfunc). The compiler sees a helper with an unused number. The loader gives
 * that number and turns the call into one of a kfunc (KFUNCS in lab/ebpf/source.py). */
#define KFUNC(name) ((void *)KFUNC__##name)

/* rdonly_cast(address, type): the address as a read-only pointer to the struct with that type id. The verifier does not
 * check the type. Unreadable memory reads as zero. bpf_rdonly_cast() exists since Linux 6.2 and costs nothing. Without
 * it, or with -DLOADS=0, members are copied by a helper, which takes 11 to 19 ns each. */
#ifndef KFUNC__bpf_rdonly_cast
#undef LOADS
#define LOADS 0
#elif !defined(LOADS)
#define LOADS 1
#endif
#if LOADS
static void *(*const rdonly_cast)(const void *address, u32 type) = KFUNC(bpf_rdonly_cast);
#endif

/* Load a member of an object whose type the verifier knows. */
#define LOAD_MEMBER(to, base, offset, size)                                                                            \
    ({                                                                                                                 \
        _Static_assert(sizeof(*(to)) == (size), "the variable is not as wide as the kernel's member");                 \
        *(to) = *(const volatile typeof(*(to)) *)((const void *)(base) + (offset));                                    \
    })

/* Read a member of the kernel object at `base` into `*to`, which must have the member's exact width. Unreadable memory
 * reads as zero. */
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

/* kernel_read() for an object whose type the verifier knows: an argument of a tracepoint (ON_TP_BTF), an argument of a
 * function (fentry), and an object that a member of these points to. */
#define typed_read(to, base, field) TYPED_READ(to, base, field)
#if TYPED
#define TYPED_READ(to, base, offset, size, type) LOAD_MEMBER(to, base, offset, size)
#else
#define TYPED_READ KERNEL_READ
#endif

/* kernel_read() from a copy of a part of the object: the array `from` holds its bytes from offset `at` on. One large
 * copy costs less than one for each member. */
#define read_copied(to, from, at, field) READ_COPIED(to, from, at, field)
#define READ_COPIED(to, from, at, offset, size, type)                                                                  \
    ({                                                                                                                 \
        _Static_assert(sizeof(*(to)) == (size), "the variable is not as wide as the kernel's member");                 \
        _Static_assert((offset) >= (at) && (offset) + (size) <= (at) + sizeof(from), "the member is not in the copy"); \
        __builtin_memcpy((to), (from) + (offset) - (at), (size));                                                      \
    })

/* Offset of a member in its struct: turns a pointer to the member into one to the struct. */
#define offset_of(field) OFFSET_OF(field)
#define OFFSET_OF(offset, size, type) (offset)

/* Return bit number `value` of a flag word. */
#define has_flag(word, value) (((word) >> (value)) & 1)
#define ENUM(type, name) ENUM__##type##__##name

/* Have the compiler write to a map's value what it would keep in registers, where the verifier would follow it. */
#define FORGET_VALUES() asm volatile("" ::: "memory")

/* The number of this tracepoint's arguments. Later kernels append some. */
#define TRACEPOINT_ARGS(event) TRACEPOINT_ARGS__##event

/* How functions in headers read members of sockets and of struct sk_buff. A probe that passes only objects whose types
 * the verifier knows defines READ as typed_read before it includes this file. READS_COPIES: READ is kernel_read(). */
#ifndef READ
#define READ kernel_read
#define READS_COPIES 1
#else
#define READS_COPIES !TYPED
#endif
