/* The current task, and the numbers of tasks in the PID namespace of the lab's process. */
#pragma once

#include "include/kernel_read.h"

/* The current task, and the macro that reads its members. The verifier knows its type since Linux 5.11. */
#if TYPED && ENUM(bpf_func_id, BPF_FUNC_get_current_task_btf)
#define current_task() ((const void *)bpf_get_current_task_btf())
#define task_read typed_read
#else
#define current_task() ((const void *)bpf_get_current_task())
#define task_read kernel_read
#endif

#define NAME_LENGTH 16        /* TASK_COMM_LEN */
#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */

/* Return true for one of the kernel's own threads, which work for others and own no socket. */
static inline bool is_kernel_thread(const void *task)
{
    u32 flags = 0;

    task_read(&flags, task, FIELD(task_struct, flags));
    return flags & PF_KTHREAD;
}

/* Read the name of a task. Since Linux 5.17 all bytes behind its end are 0 (__set_task_comm()). Earlier kernels may leave
 * some of a longer name there. The helper takes 20 ns. */
static inline void read_name(char *name, const void *task)
{
#if LOADS
    const volatile u64 *words = rdonly_cast(task, TYPE__task_struct) + offset_of(FIELD(task_struct, comm));
    u64 copy[NAME_LENGTH / sizeof(u64)] = {words[0], words[1]};

    __builtin_memcpy(name, copy, NAME_LENGTH);
#else
    __builtin_memset(name, 0, NAME_LENGTH);
    bpf_probe_read_kernel_str(name, NAME_LENGTH, task + offset_of(FIELD(task_struct, comm)));
#endif
}

/* Read the name of the current task. */
static inline void read_own_name(char *name, const void *task)
{
#if LOADS
    read_name(name, task);
#else
    bpf_get_current_comm(name, NAME_LENGTH);
#endif
}

/* The PID namespace whose numbers the program reports: that of the process that loads the program
 * (lab/ebpf/program.py). */
struct pid_viewer {
    u32 inum;  /* 0: the initial one */
    u32 level; /* its depth below the initial one */
};

BPF_ARRAY(pid_viewer, struct pid_viewer, 1);

#define UPID_SIZE 16             /* sizeof(struct upid): an int and a pointer */
#define DEEPEST_PID_NAMESPACE 32 /* MAX_PID_NS_LEVEL in include/linux/pid_namespace.h */

/* The numbers of the current task and of its process in that namespace; 0: they have none, because they run outside. A
 * task has a number in its own PID namespace and in each one above (struct pid). The number of a thread group's leader is
 * that of the process. Threads share their PID namespaces. */
static inline void view_pids(const void *task, const void *leader, u32 *tgid, u32 *tid)
{
    const void *of_task = NULL, *of_leader = NULL, *namespace = NULL;
    struct pid_viewer *viewer;
    u32 level = 0, inum = 0, place;
    int only = 0, number = 0;

    viewer = pid_viewer.lookup(&only);
    if (!viewer || !viewer->inum) {
        kernel_read(&number, leader, FIELD(task_struct, pid));
        *tgid = number;
        kernel_read(&number, task, FIELD(task_struct, pid));
        *tid = number;
        return;
    }
    kernel_read(&of_task, task, FIELD(task_struct, thread_pid));
    kernel_read(&of_leader, leader, FIELD(task_struct, thread_pid));
    kernel_read(&level, of_task, FIELD(pid, level));
    place = viewer->level;
    if (place > level || place > DEEPEST_PID_NAMESPACE)
        return;
    place *= UPID_SIZE;
    kernel_read(&namespace, of_task + offset_of(FIELD(pid, numbers)) + place, FIELD(upid, ns));
    kernel_read(&inum, namespace, FIELD(pid_namespace, ns, inum));
    if (inum != viewer->inum)
        return;
    kernel_read(&number, of_task + offset_of(FIELD(pid, numbers)) + place, FIELD(upid, nr));
    *tid = number;
    kernel_read(&number, of_leader + offset_of(FIELD(pid, numbers)) + place, FIELD(upid, nr));
    *tgid = number;
}
