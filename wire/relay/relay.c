/* The wire's relay: carries frames between two devices, holds each for its delay, writes down what became of it.
 *
 *     lab-relay <parent's pid> <fd of the log> <records it has room for> <ifindex of client> <ifindex of server>
 *
 * Runs in the wire's namespace. A delay counts from the kernel's receive stamp, so that what this process was late in
 * reading is made up for. It sleeps until shortly before a frame is due and spins from there; with no frame waiting it
 * sleeps for good. It is told what to do on standard input, a line at a time, and answers each `apply`, `status` and
 * `stop` with a line; it ends with `stop`, when standard input ends, and with its parent. */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "orders.inc.h"

#define SPIN_NS 100000             /* a sleep may end so much too late */
#define REST_NS 100000             /* going to sleep takes a good part of a shorter time */
#define SPIN_ALLOWANCE_NS 10000000 /* spinning at a stretch */

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
