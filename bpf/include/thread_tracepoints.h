/* Chooses the kind of program for points that only threads reach: system calls, and the work done for them.
 *
 * Since Linux 7 a thread can be preempted in a program at a raw tracepoint, as it always could by fentry. Until it
 * resumes, the kernel withholds the program from all other threads on that CPU. A second program (second_run.h) does
 * not help, since threads are preempted in it as well. No thread is preempted in a program at a perf tracepoint, so
 * Linux 7 uses those.
 *
 * The price: the kernel withholds kprobes from a softirq that interrupts a program at a perf tracepoint
 * (bpf_prog_active). In 1,000 short connections this withheld 12 events. Preemption withheld 2,100.
 */
#pragma once

#include "include/kernel_read.h"

/* Linux 7 is recognised by the grace period that tracepoints have of their own there. The loader looks up this member
 * because the text mentions it: FIELD(tp_transition_snapshot, srcu_gp). */
#if defined(OFFSET__tp_transition_snapshot__srcu_gp)
#define PLAIN_TRACEPOINTS 1
#else
#define PLAIN_TRACEPOINTS 0
#endif
