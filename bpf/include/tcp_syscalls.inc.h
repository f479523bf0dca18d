/* System calls on TCP sockets: which socket a file descriptor stands for, and where calls are entered and left.
 *
 * The file that includes this one defines SYSTEM_CALLS(each): each(name, kind) for every call that is observed, AT(name), a number
 * for the call itself, and what is done: enters() and returns().
 */
#pragma once

#include "include/tcp_socket.h"
#include "include/thread_tracepoints.h"
#include <asm/unistd.h>

#define TS_COMPAT 0x0002 /* arch/x86/include/asm/thread_info.h */
#define TIF_32BIT 22     /* arch/arm64/include/asm/thread_info.h */
#define S_IFMT 0170000
#define S_IFSOCK 0140000

/* The current task, and how members of it are read: a type that the verifier knows it has since Linux 5.11. */
#if TYPED && ENUM(bpf_func_id, BPF_FUNC_get_current_task_btf)
#define current_task() ((const void *)bpf_get_current_task_btf())
#define task_read typed_read
#else
#define current_task() ((const void *)bpf_get_current_task())
#define task_read kernel_read
#endif

/* The TCP socket behind a file descriptor of the current process, and the beginning of it; NULL for any other file: those end here as
 * soon as can be, since every read() and write() on the machine comes this way. */
static inline const void *socket_of(u32 fd, struct common *common)
{
    const void *files = NULL, *table = NULL, *descriptors = NULL, *file = NULL, *inode = NULL, *socket = NULL,
               *sk = NULL, *net = NULL;
    u32 limit = 0, netns = 0;
    u16 mode = 0, family = 0, protocol = 0;

    task_read(&files, current_task(), FIELD(task_struct, files));
    task_read(&table, files, FIELD(files_struct, fdt));
    task_read(&limit, table, FIELD(fdtable, max_fds));
    if (fd >= limit)
        return NULL;
    task_read(&descriptors, table, FIELD(fdtable, fd));
    bpf_probe_read_kernel(&file, sizeof(file), descriptors + fd * sizeof(file));
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
    return protocol == IPPROTO_TCP && is_watched(netns) ? sk : NULL;
}

/* A 32-bit program's calls have other numbers: they are not looked at. */
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

/* The first argument of a system call, in the registers of the process as the kernel keeps them meanwhile. */
static inline u64 first_argument(const void *registers)
{
    u64 argument = 0;

#if MACHINE_aarch64
    TYPED_READ(&argument, registers, offset_of(FIELD(pt_regs, regs)), sizeof(argument), TYPE__pt_regs);
#else
    typed_read(&argument, registers, FIELD(pt_regs, di));
#endif
    return argument;
}

/* A call with the first argument `fd` is entered by the current thread; some call, observed or not, is left. */
static inline int enters(u32 fd, u8 kind, u8 point);
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

/* Every system call on the machine comes this way, and none is made in an interrupt. */
#if PLAIN_TRACEPOINTS

/* The event is a struct trace_event_raw_sys_enter, trace_event_raw_sys_exit. */
ON_TRACEPOINT(sys_enter)
{
    u8 kind, point;

    return observes(ctx[1], &kind, &point) ? enters(ctx[2], kind, point) : 0;
}

ON_TRACEPOINT(sys_exit)
{
    return returns(ctx[2]);
}

#else

/* Programs at plain tracepoints the kernel leaves out, one by one, while another of the kind or somebody's call on a map is under way
 * on the CPU (bpf_prog_active); these it never does. */
ON_TP_BTF_UNAUDITED(sys_enter)
{
    u8 kind, point;

    return observes(ctx->args[1], &kind, &point) ? enters(first_argument((const void *)ctx->args[0]), kind, point) : 0;
}

ON_TP_BTF_UNAUDITED(sys_exit)
{
    return returns(ctx->args[1]);
}

#endif
