/* The wire's relay: carries frames between two devices, holds each for its delay, writes down what became of it.
 *
 *     lab-relay <parent's pid> <fd of the log> <records it has room for> <ifindex of client> <ifindex of server>
 *
 * Runs in the wire's namespace. A delay counts from the kernel's receive stamp, so that what this process was late in
 * reading is made up for. It sleeps until shortly before a frame is due and spins from there; with no frame waiting it
 * sleeps for good. It is told what to do on standard input, a line at a time, and answers each `apply`, `status` and
 * `stop` with a line; it ends with `stop`, when standard input ends, and with its parent. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "conditions.h"
#include "queue.h"
#include "record.h"

#define BATCH 64
#define LARGEST (65535 + ETHERNET_HEADER)
#define TAG 4 /* bytes of a VLAN tag, which the kernel takes out of a frame */
#define RECEIVE_BUFFER (64 << 20)
#define SPIN_NS 100000             /* a sleep may end so much too late */
#define REST_NS 100000             /* going to sleep takes a good part of a shorter time */
#define SPIN_ALLOWANCE_NS 10000000 /* spinning at a stretch */

struct direction {
    int in; /* the packet socket of the device where its frames arrive */
    int out;
    struct conditions now;
    struct conditions before; /* for frames that arrived before the change and are read after it */
    struct conditions next;   /* told, and not yet applied */
    struct queue queue;
    uint64_t arrived;
    uint64_t dropped;    /* by the kernel, for want of room in the socket */
    uint64_t refused;    /* not taken by the device where they should leave */
    uint64_t unfinished; /* came without a checksum, which a device would have filled in */
    uint64_t down;       /* how often the device went down or away */
};

static struct direction directions[2];
static struct record *records;
static uint64_t room, logged, unlogged, clock_sets;
static struct offset offset;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void note(const struct direction *d, const struct frame *f, const uint8_t *data, enum fate fate, int64_t low_ns,
                 int64_t high_ns)
{
    if (logged == room) {
        unlogged++;
        return;
    }
    struct record *record = &records[logged++];
    *record = (struct record){
        .arrived_low_ns = f->arrived_low_ns,
        .arrived_high_ns = f->arrived_high_ns,
        .due_ns = f->due_ns,
        .sent_low_ns = low_ns,
        .sent_high_ns = high_ns,
        .ordinal = f->ordinal,
        .conditions = f->conditions,
        .length = f->length,
        .flipped_bit = f->flipped_bit,
        .direction = d - directions,
        .fate = fate,
        .marks = f->marks,
    };
    memcpy(record->head, data, f->length < HEAD_BYTES ? f->length : HEAD_BYTES);
    if (f->flipped_bit < 8 * HEAD_BYTES)
        flip(record->head, f->flipped_bit);
}

/* Send a frame and forget it; returns the time after that. */
static int64_t depart(struct direction *d, struct frame *frame)
{
    int64_t low_ns = now_ns();
    ssize_t sent = send(d->out, frame->data, frame->length, MSG_DONTWAIT);
    int64_t high_ns = now_ns();
    bool taken = sent == (ssize_t)frame->length;
    d->refused += !taken;
    note(d, frame, frame->data, taken ? FORWARDED : REFUSED, taken ? low_ns : -1, taken ? high_ns : -1);
    free(frame);
    return high_ns;
}

static void enqueue(struct direction *d, const struct conditions *conditions, const struct frame *like,
                    const uint8_t *data)
{
    if (d->queue.length >= conditions->limit) {
        note(d, like, data, OVERFLOWED, -1, -1);
        return;
    }
    struct frame *frame = copy_of(like, data);
    flip(frame->data, frame->flipped_bit);
    if (frame->marks & HURRIED) {
        depart(d, frame);
        return;
    }
    if (frame->due_ns < d->queue.last_due_ns)
        frame->due_ns = d->queue.last_due_ns; /* nobody overtakes who was not told to */
    frame->due_ns += transmission_ns(conditions, frame->length);
    d->queue.last_due_ns = frame->due_ns;
    put(&d->queue, frame);
}

/* Decide what becomes of a frame that has arrived. */
static void arrive(struct direction *d, struct frame *f, const uint8_t *data)
{
    struct conditions *conditions = f->arrived_low_ns >= d->now.since_ns ? &d->now : &d->before;
    struct decision decision = decide(conditions, d - directions, data, f->length);
    f->ordinal = ++d->arrived;
    f->conditions = conditions->number;
    f->flipped_bit = -1;
    f->due_ns = f->arrived_high_ns + (decision.hurried ? 0 : conditions->delay_ns + decision.jitter_ns);
    if (decision.lost) {
        note(d, f, data, LOST, -1, -1);
        return;
    }
    f->flipped_bit = decision.flipped_bit;
    f->marks = (decision.hurried ? HURRIED : 0) | (decision.flipped_bit >= 0 ? CORRUPTED : 0);
    enqueue(d, conditions, f, data);
    if (decision.copied) {
        f->marks |= COPY;
        enqueue(d, conditions, f, data);
    }
}

/* Put the VLAN tag back that the kernel took out. There is room for it before `data`; returns the frame's new start. */
static uint8_t *tag(uint8_t *data, const struct tpacket_auxdata *aux)
{
    uint16_t type = aux->tp_status & TP_STATUS_VLAN_TPID_VALID ? aux->tp_vlan_tpid : ETH_P_8021Q;
    uint16_t fields[] = {htons(type), htons(aux->tp_vlan_tci)};
    memmove(data - TAG, data, 2 * ETH_ALEN);
    memcpy(data - TAG + 2 * ETH_ALEN, fields, TAG);
    return data - TAG;
}

static void unpack(struct direction *d, struct msghdr *message, size_t length)
{
    uint8_t *data = message->msg_iov->iov_base;
    struct timespec stamp = {0};
    struct tpacket_auxdata aux = {0};
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS)
            memcpy(&stamp, CMSG_DATA(c), sizeof(stamp));
        if (c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA)
            memcpy(&aux, CMSG_DATA(c), sizeof(aux));
    }
    if (aux.tp_status & TP_STATUS_VLAN_VALID) {
        data = tag(data, &aux);
        length += TAG;
    }
    d->unfinished += !!(aux.tp_status & TP_STATUS_CSUMNOTREADY);
    struct frame frame = {
        .arrived_low_ns = ns_of(stamp) - offset.high_ns,
        .arrived_high_ns = ns_of(stamp) - offset.low_ns,
        .length = length,
    };
    arrive(d, &frame, data);
}

/* Read at most one batch; returns how many frames there were. */
static int receive(struct direction *d)
{
    static uint8_t data[BATCH][TAG + LARGEST];
    static uint8_t control[BATCH][256];
    static struct iovec iov[BATCH];
    static struct mmsghdr messages[BATCH];
    static int prepared;
    for (; prepared < BATCH; prepared++) {
        iov[prepared] = (struct iovec){data[prepared] + TAG, LARGEST};
        messages[prepared].msg_hdr = (struct msghdr){.msg_iov = &iov[prepared], .msg_iovlen = 1};
    }
    for (int i = 0; i < BATCH; i++) { /* the kernel leaves there how much it has used */
        messages[i].msg_hdr.msg_control = control[i];
        messages[i].msg_hdr.msg_controllen = sizeof(control[i]);
    }
    int count = recvmmsg(d->in, messages, BATCH, MSG_DONTWAIT, NULL);
    if (count < 0) {
        if (errno == ENETDOWN)
            d->down++;
        else if (errno != EAGAIN && errno != EINTR)
            fail("receive");
        return 0;
    }
    clock_sets += !narrow(&offset);
    for (int i = 0; i < count; i++)
        unpack(d, &messages[i].msg_hdr, messages[i].msg_len);
    return count;
}

static struct direction *earliest(void)
{
    struct frame *one = directions[0].queue.head, *other = directions[1].queue.head;
    if (!one && !other)
        return NULL;
    return &directions[!one || (other && other->due_ns < one->due_ns)];
}

/* Send what is due, no more than a batch; returns the time of the next departure, or -1 if nothing waits. */
static int64_t send_due(int64_t *clock_ns)
{
    struct direction *d;
    for (int i = 0; (d = earliest()) && i < BATCH; i++) {
        if (d->queue.head->due_ns > *clock_ns)
            break;
        *clock_ns = depart(d, take(&d->queue));
    }
    return d ? d->queue.head->due_ns : -1;
}

static void status(const char *word)
{
    const struct direction *to_server = &directions[0], *to_client = &directions[1];
    for (struct direction *d = directions; d < directions + 2; d++) {
        struct tpacket_stats stats;
        socklen_t size = sizeof(stats);
        if (getsockopt(d->in, SOL_PACKET, PACKET_STATISTICS, &stats, &size) != 0)
            fail("PACKET_STATISTICS");
        d->dropped += stats.tp_drops; /* reading resets it */
    }
#define BOTH(name) printf(" " #name "=%" PRIu64, to_server->name + to_client->name)
    printf("%s logged=%" PRIu64 " unlogged=%" PRIu64 " clock_sets=%" PRIu64, word, logged, unlogged, clock_sets);
    BOTH(arrived), BOTH(queue.length), BOTH(dropped), BOTH(refused), BOTH(unfinished), BOTH(down);
    printf("\n");
}

/* `set <direction> <delay> <jitter> <loss> <duplicate> <reorder> <corrupt> <rate> <limit> <seed> [<ordinal> ...]` */
static void set(const char *line)
{
    struct conditions next = {0};
    int direction, used;
    int fields = sscanf(line, "set %d %" SCNd64 "%" SCNd64 "%lf%lf%lf%lf%" SCNu64 "%" SCNu64 "%" SCNu64 "%n",
                        &direction, &next.delay_ns, &next.jitter_ns, &next.loss, &next.duplicate, &next.reorder,
                        &next.corrupt, &next.rate_bps, &next.limit, &next.seed, &used);
    if (fields != 10 || direction < 0 || direction > 1) {
        fprintf(stderr, "not understood: %s\n", line);
        exit(1);
    }
    for (const char *rest = line + used; next.drop_count < MAX_DROPS; rest += used) {
        if (sscanf(rest, "%" SCNu64 "%n", &next.drops[next.drop_count], &used) != 1)
            break;
        next.drop_count++;
    }
    directions[direction].next = next;
}

/* Frames that arrive from now on meet the conditions that were set; those read until here have arrived before. */
static void apply(void)
{
    int64_t since_ns = now_ns();
    for (struct direction *d = directions; d < directions + 2; d++) {
        uint32_t number = d->now.number + 1;
        d->before = d->now;
        d->now = d->next;
        d->now.since_ns = since_ns;
        d->now.number = number;
    }
    printf("applied number=%" PRIu32 " since_ns=%" PRId64 "\n", directions[0].now.number, since_ns);
}

static void obey(const char *line)
{
    if (strncmp(line, "set ", 4) == 0)
        set(line);
    else if (strcmp(line, "apply") == 0)
        apply();
    else if (strcmp(line, "status") == 0)
        status("status");
    else if (strcmp(line, "stop") == 0) {
        status("stopped");
        exit(0);
    } else {
        fprintf(stderr, "not understood: %s\n", line);
        exit(1);
    }
}

/* Whatever has arrived before an order was given is read before it is obeyed. */
static void listen_to_parent(void)
{
    static char text[16384];
    static size_t held;
    ssize_t size = read(STDIN_FILENO, text + held, sizeof(text) - 1 - held);
    if (size <= 0)
        exit(0);
    while (receive(&directions[0]) + receive(&directions[1]))
        ;
    held += size;
    text[held] = 0;
    char *line = text;
    for (char *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        obey(line);
    }
    held -= line - text;
    memmove(text, line, held + 1);
}

/* Sleep until something arrives or is due. The last SPIN_NS are spun, as far as the time slept before pays for them; whoever
 * has spun too much sleeps for REST_NS, late as that may be. A processor that a real-time process hardly leaves is taken away from
 * it in the end, for tens of milliseconds. Returns the time after that. */
static int64_t wait_until(int64_t next_ns, int64_t clock_ns, struct pollfd fds[3])
{
    static int64_t allowance_ns = SPIN_ALLOWANCE_NS;
    int64_t left_ns = next_ns - clock_ns, sleep_ns = left_ns - SPIN_NS;
    if (allowance_ns <= 0)
        sleep_ns = left_ns > REST_NS ? left_ns : REST_NS;
    bool waits = next_ns >= 0, sleeps = !waits || (left_ns > 0 && sleep_ns > 0);
    struct timespec timeout = {0};
    if (waits && sleeps) {
        timeout.tv_sec = sleep_ns / 1000000000;
        timeout.tv_nsec = sleep_ns % 1000000000;
    }
    if (ppoll(fds, 3, waits ? &timeout : NULL, NULL) < 0 && errno != EINTR)
        fail("ppoll");
    int64_t passed_ns = now_ns() - clock_ns;
    if (sleeps)
        allowance_ns = allowance_ns + passed_ns < SPIN_ALLOWANCE_NS ? allowance_ns + passed_ns : SPIN_ALLOWANCE_NS;
    else if (left_ns > 0)
        allowance_ns -= passed_ns;
    return clock_ns + passed_ns;
}

static void carry(void)
{
    struct pollfd fds[] = {{directions[0].in, POLLIN, 0}, {directions[1].in, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    for (int64_t clock_ns = now_ns();;) {
        int64_t next_ns = send_due(&clock_ns);
        clock_ns = wait_until(next_ns, clock_ns, fds);
        for (int i = 0; i < 2; i++)
            if (fds[i].revents)
                receive(&directions[i]);
        if (fds[2].revents)
            listen_to_parent();
    }
}

static int open_device(int ifindex)
{
    int one = 1, size = RECEIVE_BUFFER;
    /* Bound last: until then, with no protocol, it hears nothing. */
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = ifindex};
    if (fd < 0)
        fail("packet socket");
    if (setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one)) != 0)
        fail("PACKET_IGNORE_OUTGOING");
    if (setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &one, sizeof(one)) != 0)
        fail("PACKET_AUXDATA");
    if (setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof(one)) != 0)
        fail("SO_TIMESTAMPNS");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) != 0)
        fail("SO_RCVBUFFORCE");
    if (bind(fd, (struct sockaddr *)&where, sizeof(where)) != 0)
        fail("bind");
    return fd;
}

int main(int count, char **words)
{
    if (count != 6) {
        fprintf(stderr, "lab-relay is started by the lab\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != atoi(words[1])) /* it died before we asked */
        return 1;
    prctl(PR_SET_TIMERSLACK, 1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    room = strtoull(words[3], NULL, 10);
    records = mmap(NULL, room * sizeof(*records), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(words[2]), 0);
    if (records == MAP_FAILED)
        fail("mmap of the log");
    int client = open_device(atoi(words[4])), server = open_device(atoi(words[5]));
    for (int i = 0; i < 2; i++) {
        directions[i].in = i ? server : client;
        directions[i].out = i ? client : server;
        directions[i].now.limit = UINT64_MAX;
        init(&directions[i].queue);
    }
    offset = sample_offset();
    for (int i = 0; i < 100; i++)
        clock_sets += !narrow(&offset);
    struct sched_param lowest = {.sched_priority = sched_get_priority_min(SCHED_FIFO)};
    bool fifo = sched_setscheduler(0, SCHED_FIFO, &lowest) == 0;
#define TELL(name) printf(" " #name ":%zu:%zu", offsetof(struct record, name), sizeof(records->name));
    printf("ready %s", fifo ? "fifo" : "shared");
    FIELDS(TELL)
    printf("\n");
    carry();
}
