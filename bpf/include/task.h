/* The current task. */
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
