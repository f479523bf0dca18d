/* For points that only threads come to, and no interrupt: system calls, and what is done for them.
 *
 * Since Linux 7 a thread can be preempted in a program at a raw tracepoint, as it long could by fentry. While it waits, the program is
 * left out, on this CPU, of whatever other threads do, and a second program soon is as well. With plain tracepoints nobody is preempted
 * in a program: there these points are observed by those. The price is paid beside kprobes, which the kernel leaves out of a softirq that
 * interrupts such a program (bpf_prog_active): of a thousand short connections 12 events, and not 2,100 as by preemption.
 */
#pragma once

#include "include/kernel_read.h"

/* Since then, tracepoints have a grace period of their own: FIELD(tp_transition_snapshot, srcu_gp). */
#if defined(OFFSET__tp_transition_snapshot__srcu_gp)
#define PLAIN_TRACEPOINTS 1
#else
#define PLAIN_TRACEPOINTS 0
#endif
