/* The taps: a second witness of every frame at the hosts' interfaces, without BPF, and a tick of each CPU.
 *
 *     lab-tap <parent's pid> <fd of the log> <records in the log> <fd of the ticks> <ticks for each CPU> <fd>:<ifindex> ...
 *
 * - Each fd is a packet socket of a host's namespace. The taps read rings and wake nobody.
 * - An outgoing frame is stamped behind the queueing discipline, before the driver (dev_queue_xmit_nit()); an incoming one before
 *   TC ingress (__netif_receive_skb_core()).
 * - A thread bound to each CPU writes the time once a millisecond. A softirq of the kernel is not interrupted by threads: work
 *   that it began before a tick of its CPU was finished at that tick.
 * - It answers each line on standard input with the state of the logs, and ends at the end of standard input and with its parent. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <inttypes.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include "clock.h"
#include "process.h"

#define HEAD_BYTES 128
#define FRAME_SIZE 256 /* of the ring: header of the ring, and the beginning of a frame */
#define BLOCK_SIZE 65536
#define BLOCKS 64 /* 16,384 frames */
#define TAPS 64
#define DRAIN_NS 5000000
#define TICK_NS 1000000

/* One frame; Python maps an array of these (TAPPED in lab/network/taps.py). */
struct record {
    int64_t low_ns; /* CLOCK_MONOTONIC: the earliest and the latest possible time of the kernel's stamp */
    int64_t high_ns;
    uint32_t length;
    uint16_t tap;     /* number of the packet socket */
    uint8_t outgoing; /* 1: sent by the host */
    uint8_t early;    /* 1: an incoming frame was stamped when it was queued for the CPU, before XDP; 0: behind XDP */
    uint8_t head[HEAD_BYTES];
};

#define FIELDS(field) field(low_ns) field(high_ns) field(length) field(tap) field(outgoing) field(early) field(head)

struct tap {
    int fd;
    uint8_t *ring;
    unsigned int next;
};

static struct tap taps[TAPS];
static unsigned int tap_count;
static struct record *records;
static uint64_t room, logged, unlogged, dropped, strange, clock_sets;
static int64_t started_ns;
static int64_t *ticks;
static uint64_t tick_room;
static volatile uint64_t tick_counts[CPU_SETSIZE];
static int has_ticks[CPU_SETSIZE];
static struct offset offset;

static void open_tap(struct tap *tap, int fd, int ifindex)
{
    int version = TPACKET_V2;
    struct tpacket_req request = {BLOCK_SIZE, BLOCKS, FRAME_SIZE, BLOCKS * (BLOCK_SIZE / FRAME_SIZE)};
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = ifindex};

    tap->fd = fd;
    if (setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) != 0)
        fail("PACKET_VERSION");
    if (setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) != 0)
        fail("PACKET_RX_RING");
    tap->ring = mmap(NULL, BLOCK_SIZE * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (tap->ring == MAP_FAILED)
        fail("mmap of a ring");
    if (bind(fd, (struct sockaddr *)&where, sizeof(where)) != 0)
        fail("bind");
}

static void note(const struct tap *tap, const struct tpacket2_hdr *frame)
{
    const struct sockaddr_ll *from = (const void *)((const uint8_t *)frame + TPACKET_ALIGN(sizeof(*frame)));
    int64_t stamp_ns = frame->tp_sec * 1000000000LL + frame->tp_nsec;
    struct record *record;

    if (logged == room) {
        unlogged++;
        return;
    }
    record = &records[logged++];
    *record = (struct record){
        .low_ns = stamp_ns - offset.high_ns,
        .high_ns = stamp_ns - offset.low_ns,
        .length = frame->tp_len,
        .tap = tap - taps,
        .outgoing = from->sll_pkttype == PACKET_OUTGOING,
        .early = !!(frame->tp_status & TP_STATUS_TS_SOFTWARE),
    };
    /* Some other time, such as that at which a frame should leave. */
    strange += record->high_ns < started_ns || record->low_ns > now_ns();
    memcpy(record->head, (const uint8_t *)frame + frame->tp_mac,
           frame->tp_snaplen < HEAD_BYTES ? frame->tp_snaplen : HEAD_BYTES);
}

/* Empty the ring. */
static void drain(struct tap *tap)
{
    for (;;) {
        struct tpacket2_hdr *frame = (void *)(tap->ring + (size_t)tap->next * FRAME_SIZE);

        if (!(__atomic_load_n(&frame->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
            return;
        note(tap, frame);
        __atomic_store_n(&frame->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        tap->next = (tap->next + 1) % (BLOCKS * (BLOCK_SIZE / FRAME_SIZE));
    }
}

static void *tick(void *argument)
{
    long cpu = (long)argument;
    struct timespec pause = {0, TICK_NS};

    for (uint64_t count = 0; count < tick_room; count++) {
        ticks[cpu * tick_room + count] = now_ns();
        tick_counts[cpu] = count + 1;
        nanosleep(&pause, NULL);
    }
    return NULL;
}

/* Start a thread on each CPU. That fails for one that is offline, which does no work. */
static void start_ticks(void)
{
    long count = sysconf(_SC_NPROCESSORS_CONF);

    for (long cpu = 0; cpu < count && cpu < CPU_SETSIZE; cpu++) {
        pthread_t thread;
        pthread_attr_t attributes;
        cpu_set_t one;

        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_attr_init(&attributes);
        pthread_attr_setaffinity_np(&attributes, sizeof(one), &one);
        has_ticks[cpu] = pthread_create(&thread, &attributes, tick, (void *)cpu) == 0;
    }
}

static void answer(void)
{
    long count = sysconf(_SC_NPROCESSORS_CONF);

    for (unsigned int i = 0; i < tap_count; i++) {
        struct tpacket_stats stats;
        socklen_t size = sizeof(stats);

        drain(&taps[i]);
        if (getsockopt(taps[i].fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size) != 0)
            fail("PACKET_STATISTICS");
        dropped += stats.tp_drops; /* the kernel resets the counter */
    }
    printf("state logged=%" PRIu64 " unlogged=%" PRIu64 " dropped=%" PRIu64 " strange=%" PRIu64 " clock_sets=%" PRIu64,
           logged, unlogged, dropped, strange, clock_sets);
    for (long cpu = 0; cpu < count && cpu < CPU_SETSIZE; cpu++)
        if (has_ticks[cpu])
            printf(" ticks.%ld=%" PRIu64, cpu, tick_counts[cpu]);
    printf("\n");
}

int main(int count, char **words)
{
    struct pollfd orders = {STDIN_FILENO, POLLIN, 0};
    struct timespec pause = {0, DRAIN_NS};
    char line[64];

    if (count < 7 || count > 6 + TAPS) {
        fprintf(stderr, "run `lab`, which starts lab-tap\n");
        return 2;
    }
    accompany(atoi(words[1]));
    room = strtoull(words[3], NULL, 10);
    records = map_log(atoi(words[2]), room * sizeof(*records));
    tick_room = strtoull(words[5], NULL, 10);
    ticks = map_log(atoi(words[4]), tick_room * sizeof(*ticks) * sysconf(_SC_NPROCESSORS_CONF));
    clock_sets = settle(&offset);
    started_ns = now_ns();
    start_ticks();
    for (; tap_count < (unsigned int)count - 6; tap_count++) {
        int fd, ifindex;

        if (sscanf(words[6 + tap_count], "%d:%d", &fd, &ifindex) != 2)
            return 2;
        open_tap(&taps[tap_count], fd, ifindex);
    }
    printf("ready");
    FIELDS(PRINT_MEMBER)
    printf("\n");
    for (;;) {
        int events = ppoll(&orders, 1, &pause, NULL);

        clock_sets += !narrow(&offset);
        for (unsigned int i = 0; i < tap_count; i++)
            drain(&taps[i]);
        if (events > 0) {
            if (read(STDIN_FILENO, line, sizeof(line)) <= 0)
                return 0;
            answer();
        }
    }
}
