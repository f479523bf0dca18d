/* The system calls that the probe `analyse` observes: a step at the entry and one at the return. */
#pragma once

/* clang-format off */
#define SYSTEM_CALLS(each)                                                                                             \
    each(connect, KIND_CONNECT)                                                                                        \
    each(accept, KIND_ACCEPT)                                                                                          \
    each(accept4, KIND_ACCEPT)                                                                                         \
    each(sendto, KIND_SEND)                                                                                            \
    each(sendmsg, KIND_SEND)                                                                                           \
    each(sendmmsg, KIND_SEND)                                                                                          \
    each(write, KIND_SEND)                                                                                             \
    each(writev, KIND_SEND)                                                                                            \
    each(pwritev, KIND_SEND)                                                                                           \
    each(pwritev2, KIND_SEND)                                                                                          \
    each(sendfile, KIND_SEND)                                                                                          \
    each(splice, KIND_RECEIVE)                                                                                         \
    each(recvfrom, KIND_RECEIVE)                                                                                       \
    each(recvmsg, KIND_RECEIVE)                                                                                        \
    each(recvmmsg, KIND_RECEIVE)                                                                                       \
    each(read, KIND_RECEIVE)                                                                                           \
    each(readv, KIND_RECEIVE)                                                                                          \
    each(preadv, KIND_RECEIVE)                                                                                         \
    each(preadv2, KIND_RECEIVE)                                                                                        \
    each(shutdown, KIND_SHUTDOWN)                                                                                      \
    each(close, KIND_CLOSE)
/* clang-format on */

#define AT(name) AT_##name
#define ENTERS enters_call
#define IS_OBSERVED(protocol) ((protocol) == IPPROTO_TCP || (protocol) == IPPROTO_MPTCP)

#include "analyse/event.h"
#include "include/file.h"

static inline int enters_call(const void *arguments, u8 kind, u8 point);

#include "include/tcp_syscalls.inc.h"

#define MSG_FASTOPEN 0x20000000

/* A system call in progress. `raddr`, `rport`: the destination that the application gave to a call that opens a
 * connection; 0: none, or not read. */
struct call {
    u64 enter_ns;
    u64 skaddr;
    u8 raddr[16];
    u32 fd;
    u16 rport;
    u8 kind;
    u8 point;
    u8 takes;
    u8 held;
    u8 unused[6];
};

/* By thread. The loader empties maps whose name begins with `under_way` when it detaches the programs, which then miss
 * the returns. */
BPF_HASH(under_way, u64, struct call, 65536);

/* Read the destination of a call that opens a connection, at the user's address `from`. The socket has it later, and not
 * if the call fails early. */
static inline void read_destination(struct call *call, u64 from)
{
    /* struct sockaddr_in, struct sockaddr_in6 */
    struct {
        u16 family, port;
        u32 ipv4;
        struct address ipv6;
    } given = {};

    /* An IPv4 address is shorter, and can lie at the end of readable memory. */
    if (!from || bpf_probe_read_user(&given, 8, (const void *)from))
        return;
    if (given.family == AF_INET)
        map_ipv4(&given.ipv6, given.ipv4);
    else if (given.family != AF_INET6 || bpf_probe_read_user(&given, sizeof(given), (const void *)from))
        return;
    __builtin_memcpy(call->raddr, &given.ipv6, sizeof(call->raddr));
    call->rport = bpf_ntohs(given.port);
}

/* Return true if anything besides this descriptor holds its file: another one, of any process, or a call in progress. */
static inline bool is_held_elsewhere(u32 fd)
{
    return references_to(file_of(fd)) > 1;
}

/* Read what the other arguments say about the call. All are read first: of a read in each branch the compiler makes one at
 * a computed address, which the verifier refuses for a context. */
static inline void read_arguments(struct call *call, const void *arguments)
{
    u64 second = argument(arguments, 1), third = argument(arguments, 2), fourth = argument(arguments, 3),
        fifth = argument(arguments, 4), flags = 0;

    if (call->kind == KIND_CONNECT)
        read_destination(call, second);
    else if (call->point == AT_sendto && fourth & MSG_FASTOPEN)
        read_destination(call, fifth);
    else if (call->point == AT_recvfrom || call->point == AT_recvmmsg)
        flags = fourth;
    else if (call->point == AT_recvmsg)
        flags = third;
    call->takes = taken_by(flags);
}

/* Fill in the ends of a socket in CLOSE for a call that opens a connection: the socket can have those of an earlier
 * attempt. skc_num is 0 if the socket is not bound; inet_sport keeps the earlier port. */
static inline void fill_attempt(struct step *step, const struct call *call, const void *sk)
{
    if (step->state != TCP_CLOSE || !call->rport)
        return;
    kernel_read(&step->lport, sk, FIELD(sock_common, skc_num));
    __builtin_memcpy(step->raddr, call->raddr, sizeof(step->raddr));
    step->rport = call->rport;
}

/* The call that the current thread enters, here and not on the stack: the verifier would follow the rest of the program
 * for each call of SYSTEM_CALLS. */
BPF_PERCPU_ARRAY(entered, struct call, 1);

static inline int enters_call(const void *arguments, u8 kind, u8 point)
{
    u32 first = argument(arguments, 0), third = argument(arguments, 2);
    u64 thread = bpf_get_current_pid_tgid();
    struct call *call;
    struct common common;
    struct step *step;
    const void *sk;
    int only = 0;

    call = entered.lookup(&only);
    if (!call)
        return 0;
    __builtin_memset(call, 0, sizeof(*call));
    call->kind = kind;
    call->point = point;
    call->fd = first;
    FORGET_VALUES();
    sk = socket_of(call->fd, &common);
    if (!sk && call->point == AT_splice) {
        call->kind = KIND_SEND;
        call->fd = third;
        sk = socket_of(call->fd, &common);
    }
    if (!sk || !is_64_bit())
        return 0;
    call->skaddr = (u64)sk;
    read_arguments(call, arguments);
    call->held = call->kind == KIND_CLOSE && is_held_elsewhere(call->fd);
    step = new_step(call->kind, call->point);
    if (step) {
        call->enter_ns = step->time_ns;
        fill_owner(step);
        fill_socket(step, sk);
        fill_attempt(step, call, sk);
        events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    } else {
        call->enter_ns = bpf_ktime_get_ns();
    }
    if (under_way.update(&thread, call))
        count_lost();
    return 0;
}

/* Count a missed return of a function as lost. The current thread has left the function. */
static inline void forget_function(u64 thread);

static inline int returns(s64 result)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct call *call = under_way.lookup(&thread);
    const void *sk;
    struct common common;
    struct step *step;

    if (!call)
        return 0;
    forget_function(thread);
    step = new_step(call->kind, call->point);
    if (step) {
        fill_owner(step);
        step->returns = 1;
        step->result = result;
        step->enter_ns = call->enter_ns;
        step->takes = call->takes;
        step->held = call->held;
        step->skaddr = call->skaddr;
        /* close(), also of another thread, may have freed the socket: its address can belong to another one. */
        if (call->kind == KIND_ACCEPT && result >= 0) {
            sk = socket_of(result, &common);
            step->listener = call->skaddr;
            if (sk)
                fill_socket(step, sk);
        } else if (call->kind != KIND_CLOSE) {
            sk = socket_of(call->fd, &common);
            if ((u64)sk == call->skaddr) {
                fill_socket(step, sk);
                fill_attempt(step, call, sk);
            }
        }
        events.ringbuf_submit(step, BPF_RB_NO_WAKEUP);
    }
    under_way.delete(&thread);
    return 0;
}

/* Return the observed call of the current thread on this socket; NULL: it is in none. */
static inline struct call *call_on(const void *sk)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct call *call = under_way.lookup(&thread);

    return call && call->skaddr == (u64)sk ? call : NULL;
}

static inline bool is_called(const void *sk)
{
    return call_on(sk) != NULL;
}

/* Return when the current thread entered its observed call on this socket; 0: it is in none. */
static inline u64 entered_ns(const void *sk)
{
    struct call *call = call_on(sk);

    return call ? call->enter_ns : 0;
}
