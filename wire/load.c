/* Load for the bench, from a client and a server that do nothing else: what they do is the same each time.
 *
 *     lab-load connections <number> <of what it speaks to: see below>
 *     lab-load requests    <number> ...
 *     lab-load bulk        <bytes>  ...
 *     ... <connections> <addresses> <first address> <port> <server's network namespace> <client's>
 *
 * `connections` are opened and closed one after the other, on one processor. `requests` of 64 bytes go to and fro over so many
 * connections in turn, `bulk` in one direction; there each end is a process with a processor. Connections are made to so many addresses,
 * counted up from the first. Namespaces are paths of files. On standard output come 64-bit integers in the machine's order,
 * nanoseconds: how long everything took, how long of that the client had a processor, and then how long each connection or
 * request took. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

#define REQUEST 64
#define CHUNK (1 << 18)
#define BACKLOG 65535 /* a handshake that finds no room in it goes on a second later; net.core.somaxconn limits it */

static uint64_t number;
static int connections, addresses, listener;
static struct sockaddr_in to;
static int *clients, *servers;
static pid_t lab;
static char buffers[2][CHUNK];

static void enter(const char *netns)
{
    int fd = open(netns, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET))
        err(1, "%s", netns);
    close(fd);
}

/* The first processor that the lab may use, or the last. */
static void stay_on(bool last)
{
    cpu_set_t may, one;
    if (sched_getaffinity(lab, sizeof(may), &may))
        err(1, "sched_getaffinity");
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &may))
            continue;
        if (last)
            CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (!last)
            break;
    }
    if (sched_setaffinity(0, sizeof(one), &one))
        err(1, "sched_setaffinity");
}

static void listen_in(const char *netns)
{
    int on = 1;
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = to.sin_port};
    enter(netns);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
        bind(listener, (struct sockaddr *)&any, sizeof(any)) || listen(listener, BACKLOG))
        err(1, "listen");
}

static void begin(int at)
{
    struct sockaddr_in address = to;
    address.sin_addr.s_addr = htonl(ntohl(to.sin_addr.s_addr) + at % addresses);
    clients[at] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (clients[at] < 0 || connect(clients[at], (struct sockaddr *)&address, sizeof(address)))
        err(1, "connect");
}

static void receive(int at)
{
    servers[at] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (servers[at] < 0)
        err(1, "accept");
}

static void exactly(ssize_t (*call)(int, void *, size_t, int), int fd, void *buffer, size_t size)
{
    while (size) {
        ssize_t done = call(fd, buffer, size, 0);
        if (done <= 0)
            err(1, "send or recv");
        size -= done;
    }
}

static ssize_t send_some(int fd, void *buffer, size_t size, int flags)
{
    return send(fd, buffer, size, flags | MSG_NOSIGNAL);
}

static void answer(void)
{
    for (uint64_t i = 0; i < number; i++) {
        exactly(recv, servers[i % connections], buffers[0], REQUEST);
        exactly(send_some, servers[i % connections], buffers[0], REQUEST);
    }
}

static void swallow(void)
{
    while (recv(servers[0], buffers[0], CHUNK, 0) > 0)
        continue;
}

/* The server as a process of its own, since a process can have so many files only; returns when it has all connections. */
static pid_t serve(void (*role)(void))
{
    int ready[2];
    char byte = 0;
    if (pipe2(ready, O_CLOEXEC))
        err(1, "pipe2");
    pid_t pid = fork();
    if (pid < 0)
        err(1, "fork");
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        stay_on(false);
        for (int i = 0; i < connections; i++)
            receive(i);
        if (write(ready[1], &byte, 1) != 1)
            err(1, "write");
        role();
        _exit(0);
    }
    close(ready[1]);
    for (int i = 0; i < connections; i++)
        begin(i);
    if (read(ready[0], &byte, 1) != 1)
        errx(1, "the server has ended");
    return pid;
}

static void connect_and_close(int64_t *took_ns)
{
    for (uint64_t i = 0; i < number; i++) {
        int64_t before_ns = now_ns();
        begin(0);
        receive(0);
        close(clients[0]);
        close(servers[0]);
        took_ns[i] = now_ns() - before_ns;
    }
}

static void ask(int64_t *took_ns)
{
    for (uint64_t i = 0; i < number; i++) {
        int64_t before_ns = now_ns();
        exactly(send_some, clients[i % connections], buffers[1], REQUEST);
        exactly(recv, clients[i % connections], buffers[1], REQUEST);
        took_ns[i] = now_ns() - before_ns;
    }
}

static void pour(void)
{
    for (uint64_t left = number; left;) {
        size_t size = left < CHUNK ? left : CHUNK;
        exactly(send_some, clients[0], buffers[1], size);
        left -= size;
    }
    shutdown(clients[0], SHUT_WR);
}

int main(int count, char **words)
{
    if (count != 9 || !(number = strtoull(words[2], NULL, 10)) || (connections = atoi(words[3])) < 1 ||
        (addresses = atoi(words[4])) < 1 || !inet_aton(words[5], &to.sin_addr)) {
        fprintf(stderr, "lab-load is started by the lab\n");
        return 2;
    }
    lab = getppid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    to.sin_family = AF_INET;
    to.sin_port = htons(atoi(words[6]));
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_max < (rlim_t)connections + 16)
        errx(1, "%d connections are more than the limit of open files (ulimit -Hn)", connections);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    bool churn = !strcmp(words[1], "connections"), bulk = !strcmp(words[1], "bulk");
    uint64_t results = bulk ? 0 : number;
    int64_t *told_ns = calloc(results + 2, sizeof(*told_ns));
    clients = calloc(connections, sizeof(*clients));
    servers = calloc(connections, sizeof(*servers));
    if (!told_ns || !clients || !servers)
        err(1, "calloc");
    memset(told_ns, 1, (results + 2) * sizeof(*told_ns)); /* the pages are there before anything is timed */
    listen_in(words[7]);
    enter(words[8]);
    stay_on(true);
    pid_t server = churn ? 0 : serve(bulk ? swallow : answer);
    int64_t begin_ns = now_ns(), busy_ns = read_clock(CLOCK_THREAD_CPUTIME_ID);
    if (churn)
        connect_and_close(told_ns + 2);
    else if (bulk)
        pour();
    else
        ask(told_ns + 2);
    int status = 0;
    if (server && (waitpid(server, &status, 0) < 0 || status))
        errx(1, "the server has failed");
    told_ns[0] = now_ns() - begin_ns;
    told_ns[1] = read_clock(CLOCK_THREAD_CPUTIME_ID) - busy_ns;
    return fwrite(told_ns, sizeof(*told_ns), results + 2, stdout) == results + 2 ? 0 : 1;
}
