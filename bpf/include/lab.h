/* What every probe shares: how a program names its attach point, reads a member of a kernel struct, and counts what it
 * could not tell.
 *
 * The loader puts the lab's own headers into the text before BCC sees it (lab/ebpf/source.py), so that functions here may
 * use maps; macros may not.
 */
#pragma once

#include <linux/types.h>

/* The name of a function says where it is attached; the loader reads it (lab/ebpf/attach.py). */
#define ON_RAW_TRACEPOINT(event) int on_raw_tracepoint__##event(struct bpf_raw_tracepoint_args *ctx)

/* The kernel does not run a tracing program that already runs on this CPU (`recursion_misses`, since 6.2): when an
 * interrupt comes while it is at work for a process, what the softirq does would go unseen. Softirqs do not nest, so a
 * second program, attached behind the first, which acts when the first was left out, sees it all. */
#define ON_RAW_TRACEPOINT_AGAIN(event) int on_raw_tracepoint__##event##__again(struct bpf_raw_tracepoint_args *ctx)

/* The same, where the verifier knows the types of the arguments (BPF_TRACE_RAW_TP): members of what they point to are loaded, by
 * typed_read(), where a copy takes a call of a helper. With -DTYPED=0 these are plain raw tracepoints, and members are copied. Not for
 * arguments that can be NULL: kernels before 6.13 take them all for valid. */
#ifndef TYPED
#define TYPED 1
#endif
#if TYPED
#define ON_TP_BTF(event) int on_tp_btf__##event(struct bpf_raw_tracepoint_args *ctx)
#define ON_TP_BTF_AGAIN(event) int on_tp_btf__##event##__again(struct bpf_raw_tracepoint_args *ctx)
#define ON_TP_BTF_UNAUDITED(event) int on_tp_btf__##event##__unaudited(struct bpf_raw_tracepoint_args *ctx)
#else
#define ON_TP_BTF ON_RAW_TRACEPOINT
#define ON_TP_BTF_AGAIN ON_RAW_TRACEPOINT_AGAIN
#define ON_TP_BTF_UNAUDITED ON_RAW_TRACEPOINT_UNAUDITED
#endif

/* For events of which hardly any is of interest: what a kernel withholds of them (lab/ebpf/audit.py) is no reason to record again.
 * Not for those that can interrupt their own program: nothing makes up for what is left out then. */
#define ON_RAW_TRACEPOINT_UNAUDITED(event)                                                                             \
    int on_raw_tracepoint__##event##__unaudited(struct bpf_raw_tracepoint_args *ctx)

/* The same by way of perf events, which disable preemption; `ctx` is the event as its format says. While one is under way, an interrupt
 * runs no other of the kind, nor any kprobe (bpf_prog_active). */
#define ON_TRACEPOINT(event) int on_tracepoint__##event(u64 *ctx)

/* Frames of the interfaces that the program is attached to, and packets of the sockets of every cgroup. */
#define ON_TC(direction) int on_tc__##direction(struct __sk_buff *ctx)
#define ON_XDP(name) int on_xdp__##name(struct xdp_md *ctx)
#define ON_CGROUP_SKB(direction) int on_cgroup_skb__##direction(struct __sk_buff *ctx)

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

BPF_ARRAY(lost, u64, 1);           /* events that found no room, of all CPUs together */
BPF_PERCPU_ARRAY(rescued, u64, 1); /* runs of the second programs in place of the first; one can interrupt another */
BPF_PERCPU_ARRAY(runs, u64, 8);    /* of the first program at each raw tracepoint, whatever it then made of the event */

/* What the first program at a point has run for and the second not yet, 0: nothing. By the thread that is current, and by a softirq that
 * interrupts it, which runs both before the thread goes on. Another thread may be preempted between the two all the while: each has a
 * place of its own, by its number. */
#define PLACES 64
#define POINTS 8

struct noted {
    u64 outer[PLACES][POINTS];
    u64 inner[PLACES][POINTS];
};

/* By CPU, but any may look at all of them: a thread that was preempted may go on at another one. */
BPF_ARRAY(noted, struct noted, CPUS);

static inline void count_lost(void)
{
    lost.atomic_increment(0);
}

/* For an event that stands for several. */
static inline void count_lost_many(u64 events)
{
    lost.atomic_increment(0, events);
}

static inline u64 lost_so_far(void)
{
    int only = 0;
    u64 *count = lost.lookup(&only);

    return count ? *count : 0;
}

static inline struct noted *noted_here(void)
{
    int cpu = bpf_get_smp_processor_id();

    return noted.lookup(&cpu);
}

static inline u32 place_of_thread(void)
{
    return bpf_get_current_pid_tgid() % PLACES;
}

/* For the first program at a point: notes what it ran for. `point` numbers the probe's points from 0, `key` tells what is under
 * way at that point on this CPU from everything else that can be. `held` says that it is done by a thread that holds its socket. */
static inline void note_run(int point, u64 key, bool held)
{
    struct noted *here = noted_here();
    u32 place = place_of_thread();

    if (!here)
        return;
    /* What is interrupted stays. A softirq that has come while the second program was at work leaves one run after another here, of
     * which that was left out; so does any thread while another is preempted in that program. A thread that holds a socket has not
     * interrupted anything: what is noted then is such a run, and gives way. */
    if (here->outer[place][point] && !held) {
        here->inner[place][point] = key;
    } else {
        here->outer[place][point] = key;
        here->inner[place][point] = 0;
    }
}

/* The same at a raw tracepoint, where the runs are counted: the kernel's own count of hits is compared with them.
 * `event` is EVENT(name), a number that the loader gives to the tracepoint. */
#define EVENT(name) EVENT__##name
static inline void first_run(int event, int point, u64 key, bool held)
{
    runs.increment(event);
    note_run(point, key, held);
}

/* For the second program: tells whether it has to do what the first was left out of. */
static inline bool rescues(int point, u64 key)
{
    struct noted *here = noted_here();
    u32 place = place_of_thread();

    /* What is done is forgotten: the next packet often has the same address. */
    if (here && here->inner[place][point] == key) {
        here->inner[place][point] = 0;
        return false;
    }
    if (here && here->outer[place][point] == key) {
        here->outer[place][point] = 0;
        here->inner[place][point] = 0; /* what has interrupted this is over */
        return false;
    }
    for (int cpu = 0; cpu < CPUS; cpu++) {
        int other = cpu;
        struct noted *there = noted.lookup(&other);

        if (there && there->outer[place][point] == key) {
            there->outer[place][point] = 0;
            return false;
        }
    }
    rescued.atomic_increment(0);
    return true;
}
