/* The depth of the current task's PID namespace below the initial one, which no file of /proc tells from the inside.
 *
 * The program is attached nowhere: lab/ebpf/program.py runs it. */
#include "include/attach_points.h"
#include "include/kernel_read.h"

ON_RAW_TRACEPOINT(pid_namespace)
{
    const void *task = (const void *)bpf_get_current_task(), *pid = NULL;
    u32 level = 0;

    kernel_read(&pid, task, FIELD(task_struct, thread_pid));
    kernel_read(&level, pid, FIELD(pid, level));
    return level;
}
