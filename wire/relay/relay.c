/* The wire's relay: forwards frames between two devices, delays each and logs it.
 *
 *     lab-relay <parent's pid> <fd of the log> <records in the log> <ifindex of client> <ifindex of server>
 *
 * - It runs in the wire's namespace.
 * - A delay starts at the kernel's receive stamp, so a late read does not make it longer.
 * - The relay sleeps until shortly before a frame is due, then spins. With an empty queue it sleeps without a timeout.
 * - It reads one order a line from standard input, and answers `apply`, `status` and `stop` with a line.
 * - It ends at `stop`, at the end of standard input, and with its parent. */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>

#include "orders.inc.h"

#define SPIN_NS 100000             /* a sleep can end this late */
#define REST_NS 100000             /* shortest sleep: entering a shorter one takes a large part of it */
#define SPIN_ALLOWANCE_NS 10000000 /* longest time of spinning without a sleep */

static struct direction *next_to_send(void)
{
    struct frame *one = directions[0].queue.head, *other = directions[1].queue.head;
    if (!one && !other)
        return NULL;
    return &directions[!one || (other && other->due_ns < one->due_ns)];
}

/* Send the frames that are due, at most BATCH. Return the time of the next departure, -1 if the queues are empty. */
static int64_t send_due(int64_t *clock_ns)
{
    struct direction *d;
    for (int i = 0; (d = next_to_send()) && i < BATCH; i++) {
        if (d->queue.head->due_ns > *clock_ns)
            break;
        *clock_ns = depart(d, take(&d->queue));
    }
    return d ? d->queue.head->due_ns : -1;
}

/* Wait until a frame or an order arrives or a frame is due. Return the time afterwards.
 *
 * The relay spins for the last SPIN_NS. Sleeping earns the allowance for spinning. Without allowance the relay sleeps
 * for at least REST_NS, even if a frame is then late: the kernel stops a real-time process that hardly ever sleeps, for
 * tens of milliseconds. */
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
            read_orders();
    }
}

int main(int count, char **words)
{
    if (count != 6) {
        fprintf(stderr, "run `lab`, which starts lab-relay\n");
        return 2;
    }
    accompany(atoi(words[1]));
    room = strtoull(words[3], NULL, 10);
    records = map_log(atoi(words[2]), room * sizeof(*records));
    int client = open_device(atoi(words[4])), server = open_device(atoi(words[5]));
    for (int i = 0; i < 2; i++) {
        directions[i].in = i ? server : client;
        directions[i].out = i ? client : server;
        directions[i].now.limit = UINT64_MAX;
        init(&directions[i].queue);
    }
    clock_sets = settle(&offset);
    struct sched_param lowest = {.sched_priority = sched_get_priority_min(SCHED_FIFO)};
    bool fifo = sched_setscheduler(0, SCHED_FIFO, &lowest) == 0;
    printf("ready %s", fifo ? "fifo" : "shared");
    FIELDS(PRINT_MEMBER)
    printf("\n");
    carry();
}
