/* The thread that waits for a socket's data in poll(), select() or epoll_wait().
 *
 * A thread can wait for many files at once, and only the kernel's wait queues say for which. They are read when the
 * socket announces data, before it wakes its waiters. Each entry of a socket's queue is one of
 * - a thread in a read(): its own call shows that it slept;
 * - a struct poll_table_entry of a thread in poll() or select();
 * - a struct eppoll_entry of an epoll instance, whose own queue has the threads in epoll_wait().
 * Entries of the last two kinds have a pointer to the queue. Others (io_uring) are ignored. The queue can change while
 * it is read: unreadable memory reads as zero.
 */
#pragma once

#include "include/tcp_socket.h"

#define MOST_WAITERS 4 /* entries that are looked at */
#define EPOLLIN 1      /* include/uapi/linux/eventpoll.h; POLLIN has the same value */

/* Return the thread of an entry of poll() or select(); 0 if it waits for no data or another file has ended its wait. */
static inline u64 task_in_poll(u64 entry, u64 queue, u64 table)
{
    u64 address = 0, task = 0;
    u32 key = 0;
    int triggered = 0;

    entry -= offset_of(FIELD(poll_table_entry, wait));
    kernel_read(&address, entry, FIELD(poll_table_entry, wait_address));
    kernel_read(&key, entry, FIELD(poll_table_entry, key));
    if (address != queue || !(key & EPOLLIN))
        return 0;
    kernel_read(&triggered, table, FIELD(poll_wqueues, triggered)); /* set by pollwake() */
    kernel_read(&task, table, FIELD(poll_wqueues, polling_task));
    return triggered ? 0 : task;
}

/* Return the thread that an entry of an epoll instance wakes: the first one in its queue, from which
 * ep_autoremove_wake_function() removes the threads that another file has woken. */
static inline u64 task_in_epoll(u64 entry, u64 queue)
{
    u64 address = 0, item = 0, instance = 0, head, link = 0, task = 0;
    u32 events = 0;

    entry -= offset_of(FIELD(eppoll_entry, wait));
    kernel_read(&address, entry, FIELD(eppoll_entry, whead));
    if (address != queue)
        return 0;
    kernel_read(&item, entry, FIELD(eppoll_entry, base));
    kernel_read(&events, item, FIELD(epitem, event, events));
    if (!(events & EPOLLIN))
        return 0;
    kernel_read(&instance, item, FIELD(epitem, ep));
    head = instance + offset_of(FIELD(eventpoll, wq, head));
    bpf_probe_read_kernel(&link, sizeof(link), (const void *)head);
    if (link == head)
        return 0;
    kernel_read(&task, link - offset_of(FIELD(wait_queue_entry, entry)), FIELD(wait_queue_entry, private));
    return task;
}

/* Return the thread, as bpf_get_current_pid_tgid() does for the current one, that waits for data of the socket in
 * poll(), select() or epoll_wait(); 0 if none. For a socket that is about to announce data. */
static inline u64 waiting_thread(const void *tcp)
{
    u64 wq = 0, queue, head, link = 0, task = 0;
    int pid = 0, tgid = 0;

    typed_read(&wq, tcp, FIELD(sock, sk_wq));
    queue = wq + offset_of(FIELD(socket_wq, wait));
    head = wq + offset_of(FIELD(socket_wq, wait, head));
    bpf_probe_read_kernel(&link, sizeof(link), (const void *)head);
    for (int n = 0; n < MOST_WAITERS; n++) {
        u64 entry = link - offset_of(FIELD(wait_queue_entry, entry)), of = 0;

        if (!link || link == head || task)
            break;
        kernel_read(&of, entry, FIELD(wait_queue_entry, private));
        task = of ? task_in_poll(entry, queue, of) : task_in_epoll(entry, queue);
        bpf_probe_read_kernel(&link, sizeof(link), (const void *)link);
    }
    if (!task)
        return 0;
    kernel_read(&pid, task, FIELD(task_struct, pid));
    kernel_read(&tgid, task, FIELD(task_struct, tgid));
    return (u64)tgid << 32 | (u32)pid;
}
