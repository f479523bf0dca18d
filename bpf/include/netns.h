/* The functions that find an object's network namespace (its inode number). */
#pragma once

#include "include/kernel_read.h"

static inline u32 netns_of(const void *net)
{
    u32 inum = 0;

    READ(&inum, net, FIELD(net, ns, inum));
    return inum;
}

/* The namespace of the packet's device. `skb` is an argument of the program. */
static inline u32 netns_of_packet(const void *skb)
{
    void *dev = NULL, *net = NULL;

    READ(&dev, skb, FIELD(sk_buff, dev));
    READ(&net, dev, FIELD(net_device, nd_net));
    return netns_of(net);
}

/* The namespace of the packet's device. `skb` is the program's context, whose members have no types. */
static inline u32 netns_of_context(const void *skb)
{
    void *dev = NULL, *net = NULL;
    u32 inum = 0;

    kernel_read(&dev, skb, FIELD(sk_buff, dev));
    kernel_read(&net, dev, FIELD(net_device, nd_net));
    kernel_read(&inum, net, FIELD(net, ns, inum));
    return inum;
}
