/* Limits a program to network namespaces. */
#pragma once

#include "include/kernel_read.h"

static inline u32 netns_of(const void *net)
{
    u32 inum = 0;

    READ(&inum, net, FIELD(net, ns, inum));
    return inum;
}

/* That of the device which a packet comes from or goes to. */
static inline u32 netns_of_packet(const void *skb)
{
    void *dev = NULL, *net = NULL;

    READ(&dev, skb, FIELD(sk_buff, dev));
    READ(&net, dev, FIELD(net_device, nd_net));
    return netns_of(net);
}

/* The same of a packet that is a program's context, whose members have no types there. */
static inline u32 netns_of_context(const void *skb)
{
    void *dev = NULL, *net = NULL;
    u32 inum = 0;

    kernel_read(&dev, skb, FIELD(sk_buff, dev));
    kernel_read(&net, dev, FIELD(net_device, nd_net));
    kernel_read(&inum, net, FIELD(net, ns, inum));
    return inum;
}

/* Network namespaces to which the program is limited while it records, by inode number, some of them again; 0: it sees all. */
struct watched {
    u32 netns[4];
};

BPF_ARRAY(watched, struct watched, 1);

static inline bool is_watched(u32 netns)
{
    int only = 0;
    struct watched *watches = watched.lookup(&only);

    return !watches || !watches->netns[0] || netns == watches->netns[0] || netns == watches->netns[1] ||
           netns == watches->netns[2] || netns == watches->netns[3];
}
