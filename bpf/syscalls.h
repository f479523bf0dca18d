/* System calls on TCP sockets: which socket a file descriptor stands for, and what is under way in each thread.
 *
 * The file that includes this one defines SYSTEM_CALLS(each): each(name, kind) for every call that is observed.
 */
#pragma once

#include "steps.h"
#include <asm/unistd.h>

#define TS_COMPAT 0x0002 /* arch/x86/include/asm/thread_info.h */
#define TIF_32BIT 22     /* arch/arm64/include/asm/thread_info.h */
#define S_IFMT 0170000
#define S_IFSOCK 0140000

/* The registers of the process, as the kernel keeps them during a system call (`struct pt_regs`). */
#if MACHINE_aarch64
#define FIRST_ARGUMENT 0
#else
#define FIRST_ARGUMENT 14 /* rdi */
#endif

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
    return sk && is_watched_tcp(sk) ? sk : NULL;
}

/* A 32-bit program's calls have other numbers: they are not looked at. */
static inline bool is_64_bit(void)
{
#if MACHINE_aarch64
    unsigned long flags = 0;

    kernel_read(&flags, bpf_get_current_task(), FIELD(task_struct, thread_info, flags));
    return !has_flag(flags, TIF_32BIT);
#else
    u32 status = 0;

    kernel_read(&status, bpf_get_current_task(), FIELD(task_struct, thread_info, status));
    return !(status & TS_COMPAT);
#endif
}

static inline int enters(const u64 *registers, u8 kind, u8 point)
{
    struct call call = {.kind = kind, .point = point};
    u64 thread = bpf_get_current_pid_tgid(), fd = 0;
    struct step *step;
    const void *sk;

    bpf_probe_read_kernel(&fd, sizeof(fd), registers + FIRST_ARGUMENT);
    call.fd = fd;
    sk = socket_of(call.fd);
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

static inline int returns(s64 result)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct call *call = under_way.lookup(&thread);
    const void *sk;
    struct step *step;

    if (!call)
        return 0;
    step = new_step(call->kind, call->point);
    if (step) {
        fill_owner(step);
        step->returns = 1;
        step->result = result;
        step->enter_ns = call->enter_ns;
        step->skaddr = call->skaddr;
        /* close() has let go of the socket, and so may another thread have: what is at its address now can be another. */
        if (call->kind == KIND_ACCEPT && result >= 0) {
            sk = socket_of(result);
            step->listener = call->skaddr;
            if (sk)
                fill_socket(step, sk);
        } else if (call->kind != KIND_CLOSE) {
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

#define OBSERVE(name, its_kind)                                                                                        \
    case __NR_##name:                                                                                                  \
        kind = its_kind;                                                                                               \
        point = AT_##name;                                                                                             \
        break;

/* Every system call on the machine comes this way. Programs at the tracepoints of single calls would meet only theirs, but the
 * kernel leaves those out, one by one, while another program of the kind or a map's update is under way on the CPU
 * (bpf_prog_active); this one it never does, as no system call is made in an interrupt. */
ON_RAW_TRACEPOINT_UNAUDITED(sys_enter)
{
    u8 kind, point;

    switch (ctx->args[1]) {
        SYSTEM_CALLS(OBSERVE)
    default:
        return 0;
    }
    return enters((const u64 *)ctx->args[0], kind, point);
}

ON_RAW_TRACEPOINT_UNAUDITED(sys_exit)
{
    return returns(ctx->args[1]);
}
