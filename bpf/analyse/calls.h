/* What the probe `analyse` tells of system calls: each when it is entered and when it returns. */
#pragma once

#include "analyse/event.h"
#include "include/tcp_syscalls.inc.h"

/* A system call under way. */
struct call {
    u64 enter_ns;
    u64 skaddr;
    u32 fd;
    u8 kind;
    u8 point;
    u16 unused;
};

/* By thread. The loader empties maps of this name when the programs are detached: returns are missed from then on. */
BPF_HASH(under_way, u64, struct call, 65536);

static inline int enters(u32 fd, u8 kind, u8 point)
{
    struct call call = {.kind = kind, .point = point, .fd = fd};
    u64 thread = bpf_get_current_pid_tgid();
    struct common common;
    struct step *step;
    const void *sk;

    sk = socket_of(fd, &common);
    if (!sk || !is_64_bit())
        return 0;
    call.skaddr = (u64)sk;
    step = new_step(kind, point);
    if (step) {
        call.enter_ns = step->time_ns;
        fill_owner(step);
        fill_socket(step, sk);
        events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    } else {
        call.enter_ns = bpf_ktime_get_ns();
    }
    if (under_way.update(&thread, &call))
        count_lost();
    return 0;
}

/* Counts as lost the return of a function that the current thread is no longer in and that was not seen to return. */
static inline void forget_function(u64 thread);

static inline int returns(s64 result)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct call *call = under_way.lookup(&thread);
    const void *sk;
    struct common common;
    struct step *step;

    if (!call)
        return 0;
    forget_function(thread);
    step = new_step(call->kind, call->point);
    if (step) {
        fill_owner(step);
        step->returns = 1;
        step->result = result;
        step->enter_ns = call->enter_ns;
        step->skaddr = call->skaddr;
        /* close() has let go of the socket, and so may another thread have: what is at its address now can be another. */
        if (call->kind == KIND_ACCEPT && result >= 0) {
            sk = socket_of(result, &common);
            step->listener = call->skaddr;
            if (sk)
                fill_socket(step, sk);
        } else if (call->kind != KIND_CLOSE) {
            sk = socket_of(call->fd, &common);
            if ((u64)sk == call->skaddr)
                fill_socket(step, sk);
        }
        events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    }
    under_way.delete(&thread);
    return 0;
}

/* When the current thread has entered the call that works on this socket now; 0: no call that is observed. */
static inline u64 entered_ns(const void *sk)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct call *call = under_way.lookup(&thread);

    return call && call->skaddr == (u64)sk ? call->enter_ns : 0;
}
