/* For probes that observe kernel functions. A program that includes this is compiled for the way that this kernel allows: it is
 * another program for each (lab/ebpf/source.py).
 */
#pragma once

#ifndef TYPED
#define TYPED !ATTACH_KPROBE /* what a kprobe finds in registers has no type */
#endif

#include "include/attach_points.h"

/* A kernel function's entry and return, by the best way that this kernel allows: exactly one of ATTACH_FENTRY,
 * ATTACH_KPROBE and ATTACH_TRACEPOINT is 1, and under the last the program finds other points to observe. */
#if ATTACH_FENTRY
#define ON_FUNCTION(name) int on_fentry__##name(u64 *ctx)
#define ON_FUNCTION_AGAIN(name) int on_fentry__##name##__again(u64 *ctx)
#define ON_RETURN(name) int on_fexit__##name(u64 *ctx)
#define ON_RETURN_AGAIN(name) int on_fexit__##name##__again(u64 *ctx)
#define ARGUMENT(n) ((u64)ctx[n])
#define RETURNED(name) ((s64)ctx[FUNCTION_ARGS(name)])
#elif ATTACH_KPROBE
/* While a program of a kprobe runs, a softirq that interrupts it runs no other of the kind, the second ones neither (bpf_prog_active).
 * Where the function has a tracepoint, the second program is at that, which knows no such bar. */
/* `struct pt_regs` as an array of registers: arch/x86/include/asm/ptrace.h, arch/arm64/include/asm/ptrace.h. */
#define ON_FUNCTION(name) int on_kprobe__##name(u64 *ctx)
#define ON_FUNCTION_AGAIN(name) int on_kprobe__##name##__again(u64 *ctx)
#define ON_RETURN(name) int on_kretprobe__##name(u64 *ctx)
#define ON_RETURN_AGAIN(name) int on_kretprobe__##name##__again(u64 *ctx)
#if MACHINE_aarch64
#define ARGUMENT(n) ((u64)ctx[n])
#define RETURNED(name) ((s64)ctx[0])
#else
#define ARGUMENT(n) ((u64)ctx[(n) < 4 ? 14 - (n) : 13 - (n)])
#define RETURNED(name) ((s64)ctx[10])
#endif
#endif

/* How many arguments this kernel's function has, and one of them by its name: other kernels have more or fewer, anywhere among them. */
#define FUNCTION_ARGS(name) FUNCTION_ARGS__##name
#define ARGUMENT_OF(name, argument) ARGUMENT(ARGUMENT_OF__##name##__##argument)
