/* How a program names the place where it is attached. The loader reads it from the function's name (lab/ebpf/attach.py), and puts the
 * lab's headers into the text before BCC sees it (lab/ebpf/source.py): functions in headers may use maps, macros may not.
 */
#pragma once

#include <linux/types.h>

/* The name of a function says where it is attached; the loader reads it (lab/ebpf/attach.py). */
#define ON_RAW_TRACEPOINT(event) int on_raw_tracepoint__##event(struct bpf_raw_tracepoint_args *ctx)

/* The kernel does not run a tracing program that already runs on this CPU (`recursion_misses`, since 6.2): when an
 * interrupt comes while it is at work for a process, what the softirq does would go unseen. Softirqs do not nest, so a
 * second program, attached behind the first, which acts when the first was left out, sees it all. */
#define ON_RAW_TRACEPOINT_AGAIN(event) int on_raw_tracepoint__##event##__again(struct bpf_raw_tracepoint_args *ctx)

/* The same, where the verifier knows the types of the arguments (BPF_TRACE_RAW_TP): members of what they point to are loaded, by
 * typed_read(), where a copy takes a call of a helper. With -DTYPED=0 these are plain raw tracepoints, and members are copied. Not for
 * arguments that can be NULL: kernels before 6.13 take them all for valid. */
#ifndef TYPED
#define TYPED 1
#endif
#if TYPED
#define ON_TP_BTF(event) int on_tp_btf__##event(struct bpf_raw_tracepoint_args *ctx)
#define ON_TP_BTF_AGAIN(event) int on_tp_btf__##event##__again(struct bpf_raw_tracepoint_args *ctx)
#define ON_TP_BTF_UNAUDITED(event) int on_tp_btf__##event##__unaudited(struct bpf_raw_tracepoint_args *ctx)
#else
#define ON_TP_BTF ON_RAW_TRACEPOINT
#define ON_TP_BTF_AGAIN ON_RAW_TRACEPOINT_AGAIN
#define ON_TP_BTF_UNAUDITED ON_RAW_TRACEPOINT_UNAUDITED
#endif

/* For events of which hardly any is of interest: what a kernel withholds of them (lab/ebpf/audit.py) is no reason to record again.
 * Not for those that can interrupt their own program: nothing makes up for what is left out then. */
#define ON_RAW_TRACEPOINT_UNAUDITED(event)                                                                             \
    int on_raw_tracepoint__##event##__unaudited(struct bpf_raw_tracepoint_args *ctx)

/* The same by way of perf events, which disable preemption; `ctx` is the event as its format says. While one is under way, an interrupt
 * runs no other of the kind, nor any kprobe (bpf_prog_active). */
#define ON_TRACEPOINT(event) int on_tracepoint__##event(u64 *ctx)

/* Frames of the interfaces that the program is attached to, and packets of the sockets of every cgroup. */
#define ON_TC(direction) int on_tc__##direction(struct __sk_buff *ctx)
#define ON_XDP(name) int on_xdp__##name(struct xdp_md *ctx)
#define ON_CGROUP_SKB(direction) int on_cgroup_skb__##direction(struct __sk_buff *ctx)
