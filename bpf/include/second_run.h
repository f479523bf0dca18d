/* Second programs, which handle the events that the kernel withheld from the first program.
 *
 * THE PROBLEM. The kernel does not run a tracing program on a CPU where that program is already running. Since Linux
 * 6.2 it counts the withheld runs (`recursion_misses`). There are two causes:
 * - A program runs for a thread, an interrupt arrives, and the softirq reaches the same attach point.
 * - Since Linux 7, a thread can be preempted in a program at a raw tracepoint, as it always could by fentry. Until it
 *   resumes, the program is withheld from all other threads on that CPU.
 *
 * THE SOLUTION. Two programs are attached at the same point, and the kernel runs one after the other. The first notes a
 * key of the event before it handles it. The second looks for that key and handles the event only if it is missing
 * (rescues()). Softirqs do not nest, so a softirq interrupts at most one of the two programs. The kernel runs the other
 * one for the softirq's event.
 *
 * Example: thread T on CPU 0 changes the state of socket A, and the softirq that interrupts it changes that of B.
 *
 *   interrupt in the first program   interrupt between the two        interrupt in the second program
 *   T:        first(A) notes A       T:        first(A) notes A       T:        first(A) notes A
 *   softirq:  first(B) withheld      softirq:  first(B) notes B       T:        second(A) finds A, clears it
 *   softirq:  second(B) finds no B,  softirq:  second(B) finds B,     softirq:  first(B) notes B
 *             handles B                        clears it              softirq:  second(B) withheld
 *   T:        second(A) finds A      T:        second(A) finds A      B's note stays; a later note replaces it
 *
 * Each event is handled once. In rare cases a note is replaced before the second program looks for it, and the second
 * program repeats an event of the first. Probes for which this matters mark the events of the second program (`again`),
 * and the reader removes repetitions.
 *
 * WHAT DOES NOT WORK, and what is done instead:
 * - One note per point. In the middle column B would replace A, and second(A) would repeat A. A note therefore has two
 *   levels: `outer` for the interrupted run, `inner` for the softirq, which ends before the thread resumes.
 * - Two levels, and `inner` for each event that finds `outer` taken. In the right column B stays in `outer`. So does
 *   the note of a thread's event while another thread is preempted in the second program. The next thread's event would
 *   take `inner`, and a softirq that interrupts it would replace it. A thread that holds its socket cannot have
 *   interrupted a run, so its event replaces `outer` (`held` in note_run()).
 * - One pair of levels per CPU. A thread can be preempted between the two programs, and other threads then find its
 *   note. Each thread has its own pair, selected by its number modulo THREADS.
 * - A per-CPU map. A thread that is preempted between the two programs can resume on another CPU. The second program
 *   therefore looks at the notes of all CPUs.
 * - Two kprobes. While a program of a kprobe runs, the kernel runs no other program of a kprobe on that CPU
 *   (bpf_prog_active): it withholds both. The second program is attached to the function's tracepoint instead.
 * - Second programs at points that only threads reach (system calls) on Linux 7. Threads are preempted in the second
 *   program as well. Perf tracepoints disable preemption and are used there: thread_tracepoints.h.
 * - Attaching the first program first. The kernel runs fentry and kprobe programs in the reverse order of attaching. At
 *   those points the loader attaches the second program first (lab/ebpf/attach.py).
 *
 * What lives here: the notes, and the counts of runs. What does not: the macros that attach a second program
 * (attach_points.h, kernel_functions.h).
 */
#pragma once

#include "include/attach_points.h"

BPF_PERCPU_ARRAY(rescued, u64, 1); /* events that the second programs handled; one can interrupt another */
BPF_PERCPU_ARRAY(runs, u64, 8);    /* runs of the first program at each raw tracepoint, with or without a report */

#define THREADS 64
#define POINTS 8

/* Keys of the events that the first program has handled and the second has not seen; 0 if there is none. */
struct noted {
    u64 outer[THREADS][POINTS];
    u64 inner[THREADS][POINTS];
};

/* By CPU. Not a per-CPU map, since programs read the notes of other CPUs. */
BPF_ARRAY(noted, struct noted, CPUS);

static inline struct noted *noted_here(void)
{
    int cpu = bpf_get_smp_processor_id();

    return noted.lookup(&cpu);
}

static inline u32 thread_index(void)
{
    return bpf_get_current_pid_tgid() % THREADS;
}

/* For the first program at a point: note the event that it handles.
 * - `point` numbers the probe's attach points from 0.
 * - `key` differs from that of every other event in progress at this point on this CPU.
 * - `held`: the event is the work of a thread that holds its socket (is_held() in tcp_socket.h). */
static inline void note_run(int point, u64 key, bool held)
{
    struct noted *here = noted_here();
    u32 thread = thread_index();

    if (!here)
        return;
    if (here->outer[thread][point] && !held) {
        here->inner[thread][point] = key;
    } else {
        here->outer[thread][point] = key;
        here->inner[thread][point] = 0;
    }
}

/* note_run() at a raw tracepoint, where the run is also counted: lab/ebpf/audit.py compares `runs` with the kernel's
 * count of hits. `event` is the number that the loader gives to the tracepoint. */
#define EVENT(name) EVENT__##name
static inline void first_run(int event, int point, u64 key, bool held)
{
    runs.increment(event);
    note_run(point, key, held);
}

/* For the second program: return true if the first program did not run for this event. */
static inline bool rescues(int point, u64 key)
{
    struct noted *here = noted_here();
    u32 thread = thread_index();

    /* Clear each note that is found: the next packet often has the same address. */
    if (here && here->inner[thread][point] == key) {
        here->inner[thread][point] = 0;
        return false;
    }
    if (here && here->outer[thread][point] == key) {
        here->outer[thread][point] = 0;
        here->inner[thread][point] = 0; /* the softirq that interrupted this run has ended */
        return false;
    }
    for (int cpu = 0; cpu < CPUS; cpu++) {
        int other = cpu;
        struct noted *there = noted.lookup(&other);

        if (there && there->outer[thread][point] == key) {
            there->outer[thread][point] = 0;
            return false;
        }
    }
    rescued.atomic_increment(0);
    return true;
}

/* The key of a state change (sock:inet_sock_set_state) for note_run(). The interrupted thread holds its own socket, so
 * two changes in progress on one CPU are of different sockets. The states are below 16 and sockets lie further apart
 * than 256 bytes. Added, since the verifier allows no other operation on a pointer. */
static inline u64 change_key(struct bpf_raw_tracepoint_args *ctx)
{
    return ctx->args[0] + ((ctx->args[1] & 15) << 4 | (ctx->args[2] & 15));
}
