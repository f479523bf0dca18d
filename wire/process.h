/* What the processes beside the lab have in common: they end with it, and write their logs to memory that it maps. */
#pragma once

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* End at the latest with the process that started this one, and write lines at once. */
static inline void accompany(int parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it ended before prctl() */
        exit(1);
    prctl(PR_SET_TIMERSLACK, 1);
    setvbuf(stdout, NULL, _IOLBF, 0);
}

static inline void *map_log(int fd, size_t size)
{
    void *log = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (log == MAP_FAILED)
        fail("mmap of a log");
    return log;
}

/* Print a member of `struct record` as ` name:offset:size`; Python compares the layout with its own. */
#define PRINT_MEMBER(name)                                                                                             \
    printf(" " #name ":%zu:%zu", offsetof(struct record, name), sizeof(((struct record *)0)->name));
