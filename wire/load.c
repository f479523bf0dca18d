/* The load generator of the bench: a client and a server that do the same work in each program run.
 *
 *     lab-load connections <number> <peers>
 *     lab-load requests    <number> <peers>
 *     lab-load bulk        <bytes>  <peers>
 *     <peers>: <connections> <addresses> <first address> <port> <server's network namespace> <client's>
 *
 * - `connections`: opens and closes <number> connections one after the other, in one process on one CPU.
 * - `requests`: exchanges <number> requests and replies of 64 bytes, over <connections> connections in turn.
 * - `bulk`: sends <bytes> over one connection.
 *
 * With `requests` and `bulk` the server is a process on the first CPU, and the client one on the last. The client
 * connects to <addresses> server addresses in turn, counted up from the first. Namespaces are file paths.
 *
 * Standard output: 64-bit integers in native byte order, in nanoseconds: the total time, the client's CPU time, and the
 * time of each connection or request. */
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
#define BACKLOG 65535 /* a full backlog delays a handshake by 1 s; limited by net.core.somaxconn */

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

/* Stay on the first or the last CPU that the lab may use. */
static void pin_to_cpu(bool last)
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

static void open_connection(int at)
{
    struct sockaddr_in address = to;
    address.sin_addr.s_addr = htonl(ntohl(to.sin_addr.s_addr) + at % addresses);
    clients[at] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (clients[at] < 0 || connect(clients[at], (struct sockaddr *)&address, sizeof(address)))
        err(1, "connect");
}

static void accept_connection(int at)
{
    servers[at] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (servers[at] < 0)
        err(1, "accept");
}

static void transfer_all(ssize_t (*call)(int, void *, size_t, int), int fd, void *buffer, size_t size)
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

static void answer_requests(void)
{
    for (uint64_t i = 0; i < number; i++) {
        transfer_all(recv, servers[i % connections], buffers[0], REQUEST);
        transfer_all(send_some, servers[i % connections], buffers[0], REQUEST);
    }
}

static void receive_bulk(void)
{
    while (recv(servers[0], buffers[0], CHUNK, 0) > 0)
        continue;
}

/* Start the server in its own process and open all connections. Two processes, because the number of open files per
 * process is limited. Return the server's pid. */
static pid_t start_server(void (*role)(void))
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
        pin_to_cpu(false);
        for (int i = 0; i < connections; i++)
            accept_connection(i);
        if (write(ready[1], &byte, 1) != 1)
            err(1, "write");
        role();
        _exit(0);
    }
    close(ready[1]);
    for (int i = 0; i < connections; i++)
        open_connection(i);
    if (read(ready[0], &byte, 1) != 1)
        errx(1, "the server ended before it had accepted all connections");
    return pid;
}

static void connect_and_close(int64_t *took_ns)
{
    for (uint64_t i = 0; i < number; i++) {
        int64_t before_ns = now_ns();
        open_connection(0);
        accept_connection(0);
        close(clients[0]);
        close(servers[0]);
        took_ns[i] = now_ns() - before_ns;
    }
}

static void send_requests(int64_t *took_ns)
{
    for (uint64_t i = 0; i < number; i++) {
        int64_t before_ns = now_ns();
        transfer_all(send_some, clients[i % connections], buffers[1], REQUEST);
        transfer_all(recv, clients[i % connections], buffers[1], REQUEST);
        took_ns[i] = now_ns() - before_ns;
    }
}

static void send_bulk(void)
{
    for (uint64_t left = number; left;) {
        size_t size = left < CHUNK ? left : CHUNK;
        transfer_all(send_some, clients[0], buffers[1], size);
        left -= size;
    }
    shutdown(clients[0], SHUT_WR);
}

int main(int count, char **words)
{
    if (count != 9 || !(number = strtoull(words[2], NULL, 10)) || (connections = atoi(words[3])) < 1 ||
        (addresses = atoi(words[4])) < 1 || !inet_aton(words[5], &to.sin_addr)) {
        fprintf(stderr, "run `lab bench`, which starts lab-load\n");
        return 2;
    }
    lab = getppid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    to.sin_family = AF_INET;
    to.sin_port = htons(atoi(words[6]));
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_max < (rlim_t)connections + 16)
        errx(1, "%d connections exceed the limit of open files: raise it (ulimit -Hn) or use fewer connections",
             connections);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    bool churn = !strcmp(words[1], "connections"), bulk = !strcmp(words[1], "bulk");
    uint64_t results = bulk ? 0 : number;
    int64_t *results_ns = calloc(results + 2, sizeof(*results_ns));
    clients = calloc(connections, sizeof(*clients));
    servers = calloc(connections, sizeof(*servers));
    if (!results_ns || !clients || !servers)
        err(1, "calloc");
    memset(results_ns, 1, (results + 2) * sizeof(*results_ns)); /* allocate the pages before the measurement */
    listen_in(words[7]);
    enter(words[8]);
    pin_to_cpu(true);
    pid_t server = churn ? 0 : start_server(bulk ? receive_bulk : answer_requests);
    int64_t start_ns = now_ns(), busy_ns = read_clock(CLOCK_THREAD_CPUTIME_ID);
    if (churn)
        connect_and_close(results_ns + 2);
    else if (bulk)
        send_bulk();
    else
        send_requests(results_ns + 2);
    int status = 0;
    if (server && (waitpid(server, &status, 0) < 0 || status))
        errx(1, "the server has failed");
    results_ns[0] = now_ns() - start_ns;
    results_ns[1] = read_clock(CLOCK_THREAD_CPUTIME_ID) - busy_ns;
    return fwrite(results_ns, sizeof(*results_ns), results + 2, stdout) == results + 2 ? 0 : 1;
}
