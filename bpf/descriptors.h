/* System calls as their tracepoints tell them, and which socket a file descriptor stands for. */
#pragma once

#include "tcp.h"

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

/* The TCP socket behind a file descriptor of the current process, NULL for any other file: those end here as soon as can be,
 * since every read() and write() on the machine may come this way. */
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
