/* The system calls that the probe `analyse` observes: a step at the entry and one at the return. */
#pragma once

/* clang-format off */
#define SYSTEM_CALLS(each)                                                                                             \
    each(connect, KIND_CONNECT)                                                                                        \
    each(accept, KIND_ACCEPT)                                                                                          \
    each(accept4, KIND_ACCEPT)                                                                                         \
    each(sendto, KIND_SEND)                                                                                            \
    each(sendmsg, KIND_SEND)                                                                                           \
    each(sendmmsg, KIND_SEND)                                                                                          \
    each(write, KIND_SEND)                                                                                             \
    each(writev, KIND_SEND)                                                                                            \
    each(recvfrom, KIND_RECEIVE)                                                                                       \
    each(recvmsg, KIND_RECEIVE)                                                                                        \
    each(recvmmsg, KIND_RECEIVE)                                                                                       \
    each(read, KIND_RECEIVE)                                                                                           \
    each(readv, KIND_RECEIVE)                                                                                          \
    each(shutdown, KIND_SHUTDOWN)                                                                                      \
    each(close, KIND_CLOSE)
/* clang-format on */

#define AT(name) AT_##name

#include "analyse/event.h"
#include "include/tcp_syscalls.inc.h"

/* A system call in progress. */
struct call {
    u64 enter_ns;
    u64 skaddr;
    u32 fd;
    u8 kind;
    u8 point;
    u16 unused;
};

/* By thread. The loader empties maps whose name begins with `under_way` when it detaches the programs, which then miss
 * the returns. */
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

/* Count a missed return of a function as lost. The current thread has left the function. */
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
        /* close(), also of another thread, may have freed the socket: its address can belong to another one. */
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

/* Return when the current thread entered its observed call on this socket; 0: it is in none. */
static inline u64 entered_ns(const void *sk)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct call *call = under_way.lookup(&thread);

    return call && call->skaddr == (u64)sk ? call->enter_ns : 0;
}
