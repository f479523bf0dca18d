/* The system calls that the probe `layers` observes: writes, reads, and the returns of waits that data has ended. */
#pragma once

/* clang-format off */
#define SYSTEM_CALLS(each)                                                                                             \
    each(sendto, POINT_WRITE)                                                                                          \
    each(sendmsg, POINT_WRITE)                                                                                         \
    each(write, POINT_WRITE)                                                                                           \
    each(writev, POINT_WRITE)                                                                                          \
    each(pwritev2, POINT_WRITE)                                                                                        \
    each(sendfile, POINT_WRITE)                                                                                        \
    each(recvfrom, POINT_READ)                                                                                         \
    each(recvmsg, POINT_READ)                                                                                          \
    each(read, POINT_READ)                                                                                             \
    each(readv, POINT_READ)                                                                                            \
    each(preadv2, POINT_READ)
/* clang-format on */

#define AT(name) 0

#include "layers/event.h"
#include "include/tcp_syscalls.inc.h"

#define RCV_SHUTDOWN 1          /* include/net/sock.h */
#define LONGEST_CALL 0x7ffff000 /* MAX_RW_COUNT */

/* The call of a thread in progress on a socket (`skaddr`), or none.
 * - `woken_by`: the socket whose data ends the thread's wait (layers/waiters.h), and when; 0: none.
 * - `ends` is filled at the entry, since another thread can close the socket during the call. */
struct call {
    u64 enter_ns;
    u64 skaddr;
    u64 awake_ns;
    u64 woken_by;
    u64 woken_ns;
    u64 sleeps;
    u32 ends[10]; /* a struct endpoints: BCC does not support nested structs in the values of maps */
    u32 seq;
    u8 at;
    u8 opens; /* a write to a socket without ends: TCP Fast Open connects it */
    u8 unused[2];
};

_Static_assert(sizeof(((struct call *)0)->ends) == sizeof(struct endpoints), "the ends of a socket do not fit");

/* By thread. The entry stays from call to call, which costs less than a new one for each. The loader empties this map
 * when it detaches the programs. */
BPF_TABLE("lru_hash", u64, struct call, under_way, 65536);

struct wait {
    u64 woken_ns;
    u64 told_ns;
};

/* By socket: the last wait that the socket's data ended. */
BPF_TABLE("lru_hash", u64, struct wait, under_way_waits, 65536);

/* Return the sequence number up to which the application has written or read. */
static inline u32 stream_position(const void *sk, u8 at)
{
    u32 seq = 0;

    if (at == POINT_WRITE)
        kernel_read(&seq, sk, FIELD(tcp_sock, write_seq));
    else
        kernel_read(&seq, sk, FIELD(tcp_sock, copied_seq));
    return seq;
}

/* Return the local port in host order. A RST clears skc_num while data can still be read; inet_sport keeps the port. */
static inline u16 local_port(const void *sk, const struct common *common)
{
    u16 port = 0;

    common_read(&port, common, FIELD(sock_common, skc_num));
    if (port)
        return port;
    kernel_read(&port, sk, FIELD(inet_sock, inet_sport));
    return bpf_ntohs(port);
}

/* Return the number of voluntary context switches of the current task. */
static inline u64 sleeps_so_far(void)
{
    unsigned long count = 0;

    task_read(&count, current_task(), FIELD(task_struct, nvcsw));
    return count;
}

static inline int enters(u32 fd, u8 kind, u8 point)
{
    struct call none = {}, *call;
    struct common common;
    u64 thread = bpf_get_current_pid_tgid();
    const void *sk;
    u16 lport, rport = 0;
    u8 state = 0;
    bool opens;

    sk = socket_of(fd, &common);
    if (!sk || !is_64_bit())
        return 0;
    lport = local_port(sk, &common);
    common_read(&rport, &common, FIELD(sock_common, skc_dport));
    common_read(&state, &common, FIELD(sock_common, skc_state));
    opens = kind == POINT_WRITE && state == TCP_CLOSE;
    if (!opens && !have_chosen_port(current_choice(), lport, bpf_ntohs(rport)))
        return 0;
    call = under_way.lookup_or_try_init(&thread, &none);
    if (!call) {
        count_lost();
        return 0;
    }
    call->skaddr = (u64)sk;
    read_endpoints((struct endpoints *)call->ends, &common);
    ((struct endpoints *)call->ends)->lport = lport;
    call->at = kind;
    call->opens = opens;
    call->seq = stream_position(sk, kind);
    call->awake_ns = 0;
    call->sleeps = kind == POINT_READ ? sleeps_so_far() : 0;
    call->enter_ns = bpf_ktime_get_ns();
    return 0;
}

/* Return true if the application has read all data and the peer's FIN. Otherwise a number more than the bytes that a
 * read returned is that of an urgent byte, which the read skipped. */
static inline bool is_at_end(const void *sk)
{
    u32 next = 0;
    u8 shutdown = 0;

    kernel_read(&next, sk, FIELD(tcp_sock, rcv_nxt));
    kernel_read(&shutdown, sk, FIELD(sock, sk_shutdown));
    return shutdown & RCV_SHUTDOWN && stream_position(sk, POINT_READ) == next;
}

/* Fill in what a write that opened its connection (TCP Fast Open) could not know at its entry. Return false if it is of
 * another port. */
static inline bool opened(struct call *call, s64 result)
{
    struct endpoints *ends = (struct endpoints *)call->ends;
    struct common common;

    copy_common(&common, (const void *)call->skaddr);
    read_endpoints(ends, &common);
    call->seq = stream_position((const void *)call->skaddr, POINT_WRITE) - result;
    return have_chosen_port(current_choice(), ends->lport, ends->rport) && is_watched(ends->netns);
}

/* Report a call that moved data. Another thread can have closed the socket during the call, and the address can belong
 * to another socket. A difference of sequence numbers that no call can have moved is therefore not reported. */
static inline void report_call(const struct call *call, s64 result)
{
    u32 seq = call->seq, length = stream_position((const void *)call->skaddr, call->at) - seq;
    u64 skaddr = call->skaddr;
    struct wait *wait = NULL;
    struct point *point;

    if (length == result + 1 && call->at == POINT_WRITE) { /* the number of a SYN that TCP_FASTOPEN_CONNECT held back */
        seq++;
        length = result;
    } else if (length == result + 1 && is_at_end((const void *)call->skaddr)) { /* the number of the peer's FIN */
        length = result;
    }
    if (!length || length > LONGEST_CALL)
        return;
    if (call->at == POINT_READ)
        wait = under_way_waits.lookup(&skaddr);
    point = new_point(call->at);
    if (!point)
        return;
    fill_ends(point, (const struct endpoints *)call->ends, call->at == POINT_WRITE);
    point->enter_ns = call->enter_ns;
    if (call->at == POINT_READ) {
        point->awake_ns = call->awake_ns;
        point->woken_ns = wait ? wait->woken_ns : 0;
        point->told_ns = wait ? wait->told_ns : 0;
    }
    point->seq = seq;
    point->length = length;
    events.ringbuf_submit(point, BPF_RB_NO_WAKEUP);
}

static inline int returns(s64 result)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct call *call = under_way.lookup(&thread);

    if (!call)
        return 0;
    if (call->woken_by) {
        struct wait over = {call->woken_ns, bpf_ktime_get_ns()};
        u64 skaddr = call->woken_by;

        call->woken_by = 0;
        under_way_waits.update(&skaddr, &over);
    }
    if (!call->skaddr)
        return 0;
    if (result > 0 && (!call->opens || opened(call, result)))
        report_call(call, result);
    call->skaddr = 0;
    return 0;
}

/* The reader copies data. Runs in its system call, never in an interrupt. */
#if PLAIN_TRACEPOINTS
ON_TRACEPOINT(skb_copy_datagram_iovec)
#else
ON_TP_BTF_UNAUDITED(skb_copy_datagram_iovec)
#endif
{
    u64 thread = bpf_get_current_pid_tgid(), sleeps;
    struct call *call = under_way.lookup(&thread);

    if (!call || !call->skaddr || call->at != POINT_READ)
        return 0;
    sleeps = sleeps_so_far();
    if (sleeps == call->sleeps)
        return 0;
    call->sleeps = sleeps;
    call->awake_ns = bpf_ktime_get_ns();
    return 0;
}
