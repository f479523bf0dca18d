/* Macros that declare a program by the name of its attach point, which the loader reads (lab/ebpf/attach.py).
 *
 * The loader puts the lab's headers into the program's text before BCC reads it (lab/ebpf/source.py). Functions in
 * headers may therefore use maps. Macros may not: BCC rewrites map calls only in the bodies of functions.
 */
#pragma once

#include <linux/types.h>

#define ON_RAW_TRACEPOINT(event) int on_raw_tracepoint__##event(struct bpf_raw_tracepoint_args *ctx)

/* A second program at the same point, for the events that the kernel withholds from the first: second_run.h. */
#define ON_RAW_TRACEPOINT_AGAIN(event) int on_raw_tracepoint__##event##__again(struct bpf_raw_tracepoint_args *ctx)

/* Raw tracepoints whose arguments have types that the verifier knows (BPF_TRACE_RAW_TP). typed_read() loads members of
 * these arguments; of untyped ones it has to call a helper that copies. -DTYPED=0 makes these plain raw tracepoints.
 * Not for arguments that can be NULL: kernels before 6.13 assume that none is. */
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

/* Tracepoints of which hardly any event is of interest. Events that the kernel withholds there (lab/ebpf/audit.py) do
 * not invalidate a recording. Not for events that can interrupt their own program: no second program handles them. */
#define ON_RAW_TRACEPOINT_UNAUDITED(event)                                                                             \
    int on_raw_tracepoint__##event##__unaudited(struct bpf_raw_tracepoint_args *ctx)

/* A tracepoint by way of a perf event, which disables preemption. `ctx` is the event in its tracefs format. While the
 * program runs, the kernel withholds from an interrupt all other programs of this kind and of kprobes
 * (bpf_prog_active). */
#define ON_TRACEPOINT(event) int on_tracepoint__##event(u64 *ctx)

/* Frames of the interfaces that the program is attached to, and packets of the sockets of every cgroup. */
#define ON_TC(direction) int on_tc__##direction(struct __sk_buff *ctx)
#define ON_XDP(name) int on_xdp__##name(struct xdp_md *ctx)
#define ON_CGROUP_SKB(direction) int on_cgroup_skb__##direction(struct __sk_buff *ctx)
