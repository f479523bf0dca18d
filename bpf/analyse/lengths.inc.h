/* The bytes that TCP has sent and received for a thread, at the tracepoints behind sendmsg() and recvmsg() of the
 * protocol. A part of analyse.c, which first defines report_done().
 *
 * The tracepoints exist since Linux 6.3. On older kernels only the system calls report bytes.
 */
#pragma once

static inline int report_sent(const void *sk, int result)
{
    return report_done(sk, KIND_SENT, AT_sock_send_length, entered_ns(sk), result);
}

static inline int report_received(const void *sk, int result, int flags)
{
    if (taken_by(flags) != TAKES_DATA) /* the tracepoint reports 0 bytes */
        return 0;
    return report_done(sk, KIND_RECEIVED, AT_sock_recv_length, entered_ns(sk), result);
}

#if PLAIN_TRACEPOINTS

ON_TRACEPOINT(sock_send_length)
{
    void *sk = NULL;
    int result = 0;

    kernel_read(&sk, ctx, FIELD(trace_event_raw_sock_msg_length, sk));
    kernel_read(&result, ctx, FIELD(trace_event_raw_sock_msg_length, ret));
    return report_sent(sk, result);
}

ON_TRACEPOINT(sock_recv_length)
{
    void *sk = NULL;
    int result = 0, flags = 0;

    kernel_read(&sk, ctx, FIELD(trace_event_raw_sock_msg_length, sk));
    kernel_read(&result, ctx, FIELD(trace_event_raw_sock_msg_length, ret));
    kernel_read(&flags, ctx, FIELD(trace_event_raw_sock_msg_length, flags));
    return report_received(sk, result, flags);
}

#elif defined(TRACEPOINT_ARGS__sock_send_length)

_Static_assert(TRACEPOINT_ARGS(sock_send_length) == 3, "sock_send_length has other arguments");

ON_RAW_TRACEPOINT(sock_send_length)
{
    runs.increment(EVENT(sock_send_length));
    return report_sent((const void *)ctx->args[0], ctx->args[1]);
}

ON_RAW_TRACEPOINT(sock_recv_length)
{
    runs.increment(EVENT(sock_recv_length));
    return report_received((const void *)ctx->args[0], ctx->args[1], ctx->args[2]);
}

#endif
