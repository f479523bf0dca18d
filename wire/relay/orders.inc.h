/* The lab's orders on standard input, and the answers on standard output.
 *
 * A part of relay.c, which defines _GNU_SOURCE. */
#pragma once

#include <inttypes.h>
#include <unistd.h>

#include "device.inc.h"

static void status(const char *word)
{
    const struct direction *to_server = &directions[0], *to_client = &directions[1];
    for (struct direction *d = directions; d < directions + 2; d++) {
        struct tpacket_stats stats;
        socklen_t size = sizeof(stats);
        if (getsockopt(d->in, SOL_PACKET, PACKET_STATISTICS, &stats, &size) != 0)
            fail("PACKET_STATISTICS");
        d->dropped += stats.tp_drops; /* the kernel resets the counter */
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
        fprintf(stderr, "lab-relay does not know this order: %s\n", line);
        exit(1);
    }
    for (const char *rest = line + used; next.drop_count < MAX_DROPS; rest += used) {
        if (sscanf(rest, "%" SCNu64 "%n", &next.drops[next.drop_count], &used) != 1)
            break;
        next.drop_count++;
    }
    directions[direction].next = next;
}

/* Apply the conditions that were set to frames that arrive from now on. All frames read so far arrived before. */
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

static void execute(const char *line)
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
        fprintf(stderr, "lab-relay does not know this order: %s\n", line);
        exit(1);
    }
}

/* Read orders and execute them. Frames that arrived before an order are read first. */
static void read_orders(void)
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
        execute(line);
    }
    held -= line - text;
    memmove(text, line, held + 1);
}
