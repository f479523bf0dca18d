/* Makes up for the runs that the kernel withholds from a program. */
#pragma once

#include "include/attach_points.h"

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

/* What sock:inet_sock_set_state is at work on (note_run()): the process that was interrupted holds its own socket, so no
 * two changes under way on one CPU are of the same one. Added, since that is what the verifier allows with a pointer; the states are
 * below 16, the sockets further apart. */
static inline u64 change_key(struct bpf_raw_tracepoint_args *ctx)
{
    return ctx->args[0] + ((ctx->args[1] & 15) << 4 | (ctx->args[2] & 15));
}
