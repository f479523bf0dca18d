/* Macros for programs at kernel functions. They are compiled for one mechanism, which the loader chooses for this
 * kernel: exactly one of ATTACH_FENTRY, ATTACH_KPROBE and ATTACH_TRACEPOINT is 1 (lab/ebpf/source.py).
 *
 * With ATTACH_TRACEPOINT there are no such macros: the probe attaches to other points.
 */
#pragma once

/* A kprobe's arguments are registers and have no type. Without effect behind a header that has defined TYPED. */
#ifndef TYPED
#define TYPED !ATTACH_KPROBE
#endif

#include "include/attach_points.h"

#if ATTACH_FENTRY
#define ON_FUNCTION(name) int on_fentry__##name(u64 *ctx)
#define ON_FUNCTION_AGAIN(name) int on_fentry__##name##__again(u64 *ctx)
#define ON_RETURN(name) int on_fexit__##name(u64 *ctx)
#define ON_RETURN_AGAIN(name) int on_fexit__##name##__again(u64 *ctx)
#define ARGUMENT(n) ((u64)ctx[n])
#define RETURNED(name) ((s64)ctx[FUNCTION_ARGS(name)])
#elif ATTACH_KPROBE
/* While a program of a kprobe runs, the kernel runs no other program of a kprobe on that CPU, second programs included
 * (bpf_prog_active). Where the function has a tracepoint, the second program is attached there: bpf_prog_active does
 * not withhold it. */
#define ON_FUNCTION(name) int on_kprobe__##name(u64 *ctx)
#define ON_FUNCTION_AGAIN(name) int on_kprobe__##name##__again(u64 *ctx)
#define ON_RETURN(name) int on_kretprobe__##name(u64 *ctx)
#define ON_RETURN_AGAIN(name) int on_kretprobe__##name##__again(u64 *ctx)
/* struct pt_regs as an array of registers: arch/x86/include/asm/ptrace.h, arch/arm64/include/asm/ptrace.h. */
#if MACHINE_aarch64
#define ARGUMENT(n) ((u64)ctx[n])
#define RETURNED(name) ((s64)ctx[0])
#else
#define ARGUMENT(n) ((u64)ctx[(n) < 4 ? 14 - (n) : 13 - (n)])
#define RETURNED(name) ((s64)ctx[10])
#endif
#endif

/* The number of the function's arguments, and an argument by its name. Both differ between kernel versions. */
#define FUNCTION_ARGS(name) FUNCTION_ARGS__##name
#define ARGUMENT_OF(name, argument) ARGUMENT(ARGUMENT_OF__##name##__##argument)
