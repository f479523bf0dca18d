/* System calls on TCP sockets: the programs at their entry and return, and the socket of a file descriptor.
 *
 * The file that includes this one defines
 * - before the #include SYSTEM_CALLS(each), which is each(name, kind) for every observed call,
 * - before the #include AT(name), a number for the call,
 * - before the #include, optionally, ENTERS(arguments, kind, point), which replaces enters(), and
 *   IS_OBSERVED(protocol), for sockets other than TCP's,
 * - enters() and returns(), which handle the entry and the return.
 */
#pragma once

#include "include/task.h"
#include "include/tcp_socket.h"
#include "include/thread_tracepoints.h"
#include <asm/unistd.h>

#define TS_COMPAT 0x0002 /* arch/x86/include/asm/thread_info.h */
#define TIF_32BIT 22     /* arch/arm64/include/asm/thread_info.h */
#define S_IFMT 0170000
#define S_IFSOCK 0140000

#ifndef IS_OBSERVED
#define IS_OBSERVED(protocol) ((protocol) == IPPROTO_TCP)
#endif

/* Return the file of a descriptor of the current process; NULL: there is none. */
static inline const void *file_of(u32 fd)
{
    const void *files = NULL, *table = NULL, *descriptors = NULL, *file = NULL;
    u32 limit = 0;

    task_read(&files, current_task(), FIELD(task_struct, files));
    task_read(&table, files, FIELD(files_struct, fdt));
    task_read(&limit, table, FIELD(fdtable, max_fds));
    if (fd >= limit)
        return NULL;
    task_read(&descriptors, table, FIELD(fdtable, fd));
    bpf_probe_read_kernel(&file, sizeof(file), descriptors + fd * sizeof(file));
    return file;
}

/* Return the TCP socket of a file descriptor of the current process and fill `common`. NULL for any other file, as
 * early as possible: every read() and write() on the machine gets here. */
static inline const void *socket_of(u32 fd, struct common *common)
{
    const void *file = file_of(fd), *inode = NULL, *socket = NULL, *sk = NULL, *net = NULL;
    u32 netns = 0;
    u16 mode = 0, family = 0, protocol = 0;

    if (!file)
        return NULL;
    kernel_read(&inode, file, FIELD(file, f_inode));
    kernel_read(&mode, inode, FIELD(inode, i_mode));
    if ((mode & S_IFMT) != S_IFSOCK)
        return NULL;
    kernel_read(&socket, file, FIELD(file, private_data));
    kernel_read(&sk, socket, FIELD(socket, sk));
    if (!sk)
        return NULL;
    copy_common(common, sk);
    common_read(&family, common, FIELD(sock_common, skc_family));
    if (family != AF_INET && family != AF_INET6)
        return NULL;
    kernel_read(&protocol, sk, FIELD(sock, sk_protocol));
    common_read(&net, common, FIELD(sock_common, skc_net));
    kernel_read(&netns, net, FIELD(net, ns, inum));
    return IS_OBSERVED(protocol) && is_watched(netns) ? sk : NULL;
}

/* Return false for a system call of a 32-bit program. Its calls have other numbers and are not observed. */
static inline bool is_64_bit(void)
{
#if MACHINE_aarch64
    unsigned long flags = 0;

    task_read(&flags, current_task(), FIELD(task_struct, thread_info, flags));
    return !has_flag(flags, TIF_32BIT);
#else
    u32 status = 0;

    task_read(&status, current_task(), FIELD(task_struct, thread_info, status));
    return !(status & TS_COMPAT);
#endif
}

/* Return argument number `n` of a system call, from 0. `arguments` is the struct pt_regs of the calling thread, or the
 * context of the program at a perf tracepoint. */
#if PLAIN_TRACEPOINTS
#define argument(arguments, n) (((const volatile u64 *)(arguments))[2 + (n)])
#else
static inline u64 argument(const void *registers, u32 n)
{
    u64 argument = 0;

#if MACHINE_aarch64
    TYPED_READ(&argument, registers, offset_of(FIELD(pt_regs, regs)) + n * sizeof(argument), sizeof(argument),
               TYPE__pt_regs);
#else
    if (n == 0)
        typed_read(&argument, registers, FIELD(pt_regs, di));
    else if (n == 1)
        typed_read(&argument, registers, FIELD(pt_regs, si));
    else if (n == 2)
        typed_read(&argument, registers, FIELD(pt_regs, dx));
    else if (n == 3)
        typed_read(&argument, registers, FIELD(pt_regs, r10));
    else if (n == 4)
        typed_read(&argument, registers, FIELD(pt_regs, r8));
#endif
    return argument;
}
#endif

/* enters(): the current thread enters an observed call whose first argument is `fd`. A file that needs the other
 * arguments defines ENTERS.
 * returns(): the current thread leaves a call, observed or not. */
#ifndef ENTERS
#define ENTERS(arguments, kind, point) enters(argument(arguments, 0), kind, point)
static inline int enters(u32 fd, u8 kind, u8 point);
#endif
static inline int returns(s64 result);

#define OBSERVE(name, its_kind)                                                                                        \
    case __NR_##name:                                                                                                  \
        kind = its_kind;                                                                                               \
        point = AT(name);                                                                                              \
        break;

static inline bool observes(u64 number, u8 *its_kind, u8 *its_point)
{
    u8 kind, point;

    switch (number) {
        SYSTEM_CALLS(OBSERVE)
    default:
        return false;
    }
    *its_kind = kind;
    *its_point = point;
    return true;
}

/* Every system call on the machine gets here, and none is made in an interrupt. */
#if PLAIN_TRACEPOINTS

/* `ctx` is a struct trace_event_raw_sys_enter or trace_event_raw_sys_exit. */
ON_TRACEPOINT(sys_enter)
{
    u8 kind, point;

    return observes(ctx[1], &kind, &point) ? ENTERS(ctx, kind, point) : 0;
}

ON_TRACEPOINT(sys_exit)
{
    return returns(ctx[2]);
}

#else

/* Not perf tracepoints: the kernel withholds their programs while another one of this kind, or a map operation of a
 * process, is in progress on the CPU (bpf_prog_active). It never withholds these. */
ON_TP_BTF_UNAUDITED(sys_enter)
{
    u8 kind, point;

    return observes(ctx->args[1], &kind, &point) ? ENTERS((const void *)ctx->args[0], kind, point) : 0;
}

ON_TP_BTF_UNAUDITED(sys_exit)
{
    return returns(ctx->args[1]);
}

#endif
