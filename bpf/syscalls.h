/* System calls on TCP sockets: which socket a file descriptor stands for, and what is under way in each thread. */
#pragma once

#include "steps.h"

#define S_IFMT 0170000
#define S_IFSOCK 0140000

/* `struct syscall_trace_enter` and `struct syscall_trace_exit` of kernel/trace/trace.h: the number comes first. */
struct entering {
    u64 common;
    u64 number;
    u64 arguments[6];
};

struct returning {
    u64 common;
    u64 number;
    s64 result;
};

/* A system call under way. */
struct call {
    u64 enter_ns;
    u64 skaddr;
    u32 fd;
    u32 unused;
};

/* By thread. The loader empties maps of this name when the programs are detached: returns are missed from then on. */
BPF_HASH(under_way, u64, struct call, 65536);

/* The TCP socket behind a file descriptor of the current process, NULL for any other file: those end here as soon as can be,
 * since every read() and write() on the machine comes this way. */
static inline const void *socket_of(u32 fd)
{
    void *files = NULL, *table = NULL, *descriptors = NULL, *file = NULL, *inode = NULL, *socket = NULL, *sk = NULL;
    u32 limit = 0;
    u16 mode = 0;

    kernel_read(&files, bpf_get_current_task(), FIELD(task_struct, files));
    kernel_read(&table, files, FIELD(files_struct, fdt));
    kernel_read(&limit, table, FIELD(fdtable, max_fds));
    if (fd >= limit)
        return NULL;
    kernel_read(&descriptors, table, FIELD(fdtable, fd));
    bpf_probe_read_kernel(&file, sizeof(file), descriptors + fd * sizeof(file));
    kernel_read(&inode, file, FIELD(file, f_inode));
    kernel_read(&mode, inode, FIELD(inode, i_mode));
    if ((mode & S_IFMT) != S_IFSOCK)
        return NULL;
    kernel_read(&socket, file, FIELD(file, private_data));
    kernel_read(&sk, socket, FIELD(socket, sk));
    return sk && is_tcp(sk) ? sk : NULL;
}

static inline int enters(struct entering *ctx, u8 kind, u8 point)
{
    struct call call = {.fd = ctx->arguments[0]};
    const void *sk = socket_of(call.fd);
    u64 thread = bpf_get_current_pid_tgid();
    struct step *step;

    if (!sk)
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

static inline int returns(struct returning *ctx, u8 kind, u8 point)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct call *call = under_way.lookup(&thread);
    const void *sk;
    struct step *step;

    if (!call)
        return 0;
    step = new_step(kind, point);
    if (step) {
        fill_owner(step);
        step->returns = 1;
        step->result = ctx->result;
        step->enter_ns = call->enter_ns;
        step->skaddr = call->skaddr;
        /* close() has let go of the socket, and so may another thread have: what is at its address now can be another. */
        if (kind == KIND_ACCEPT && ctx->result >= 0) {
            sk = socket_of(ctx->result);
            step->listener = call->skaddr;
            if (sk)
                fill_socket(step, sk);
        } else if (kind != KIND_CLOSE) {
            sk = socket_of(call->fd);
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

#define SYSTEM_CALL(name, kind)                                                                                        \
    ON_TRACEPOINT(sys_enter_##name)                                                                                    \
    {                                                                                                                  \
        return enters(ctx, kind, AT_##name);                                                                           \
    }                                                                                                                  \
    ON_TRACEPOINT(sys_exit_##name)                                                                                     \
    {                                                                                                                  \
        return returns(ctx, kind, AT_##name);                                                                          \
    }
