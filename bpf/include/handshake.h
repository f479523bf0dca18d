/* The kernel's sample of a passive handshake, and those samples that are not the network's. */
#pragma once

#include "include/tcp_socket.h"

#define TIME_STAMP_TICK_US 1000 /* 1 / TCP_TS_HZ */
#define CREATED_BY_SYN (~0u)    /* no sample: TCP Fast Open. lab/tcp.py has the same number */
#define REUSEPORT_BIT 4         /* of the bitfields that follow sock_common.skc_state */

/* Address of the last child on this CPU whose listener has sent SYN cookies, 0 if the last one's has not. */
BPF_PERCPU_ARRAY(child_after_cookies, u64, 1);

/* Note whether a child's listener has sent SYN cookies, at the child's change from LISTEN to SYN_RECV: the child is still
 * a copy of its listener (inet_csk_clone_lock()). The same softirq brings it to ESTABLISHED. */
static inline void note_listener(const void *child)
{
    int only = 0, cookie_s = 0;
    u64 *noted = child_after_cookies.lookup(&only);

    READ(&cookie_s, child, FIELD(tcp_sock, rx_opt, ts_recent_stamp)); /* of a listener: set by tcp_synq_overflow() */
    if (noted)
        *noted = cookie_s ? (u64)child : 0;
}

/* Return true if the kernel can have computed a child's first sample from TCP time stamps. It does so after a SYN cookie,
 * as it does not know when it sent the SYN-ACK, and for a joining MPTCP subflow, whose request it drops before
 * (tcp_check_req()). The sample is then at least 1 ms, and up to 64 ms too long with cookies, which store options in the
 * lowest bits of the time stamp (cookie_init_timestamp()). */
static inline bool is_by_time_stamps(const void *child, u32 sample_us)
{
    int only = 0;
    u64 *noted = child_after_cookies.lookup(&only);
    u8 bits = 0;

    if (sample_us % TIME_STAMP_TICK_US)
        return false;
    if (noted && *noted == (u64)child)
        return true;
    /* tcp_synq_overflow() notes cookies of listeners with SO_REUSEPORT in their group. */
    bpf_probe_read_kernel(&bits, sizeof(bits), child + offset_of(FIELD(sock_common, skc_state)) + 1);
    return is_subflow(child) || has_flag(bits, REUSEPORT_BIT);
}

/* Return true if the SYN of a child in SYN_RECV carried data (TCP Fast Open): the SYN has created it. */
static inline bool is_fast_opened(const void *child)
{
    u64 received = 0;

    READ(&received, child, FIELD(tcp_sock, bytes_received));
    return received;
}

/* Return true if the first sample of a socket is not of the network, or may not be. At its change from SYN_RECV to
 * ESTABLISHED. */
static inline bool is_distorted(const void *tcp, u32 sample_us)
{
    u32 data_segments = 0;
    const void *socket = NULL;

    if (is_fast_opened(tcp)) /* the sample is of the SYN-ACK, or of data if the ACK is for both */
        return false;
    /* An accepted child, or the socket of a connect() whose SYN crossed the peer's: then the sample is from its SYN-ACK,
     * which tcp_send_synack() makes of its SYN, to the peer's, half a round trip. */
    READ(&socket, tcp, FIELD(sock, sk_socket));
    if (socket)
        return true;
    /* The kernel ignored the client's acknowledgement without data (TCP_DEFER_ACCEPT, full accept queue), or it was lost,
     * or the client delayed it: the sample contains the time until the client sent data. tcp_child_process() has counted
     * the segment that created the child. */
    READ(&data_segments, tcp, FIELD(tcp_sock, data_segs_in));
    return data_segments || is_by_time_stamps(tcp, sample_us);
}

/* Return the time from SYN-ACK to ACK that the kernel measured, 0 if it has measured none or not that of the network;
 * CREATED_BY_SYN if the socket has been in SYN_RECV since the SYN. At the change from SYN_RECV. */
static inline u32 handshake_rtt_us(const void *tcp, u8 newstate)
{
    u32 retransmits = 0, srtt_us = 0;

    if (is_fast_opened(tcp))
        return CREATED_BY_SYN;
    if (newstate != TCP_ESTABLISHED)
        return 0;
    /* tcp_check_req() takes the first sample. After a retransmitted SYN-ACK it is ambiguous. */
    READ(&retransmits, tcp, FIELD(tcp_sock, total_retrans));
    READ(&srtt_us, tcp, FIELD(tcp_sock, srtt_us));
    return retransmits || is_distorted(tcp, srtt_us >> 3) ? 0 : srtt_us >> 3;
}
