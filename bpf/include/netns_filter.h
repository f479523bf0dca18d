/* The filter by network namespace, and the functions that find an object's namespace (its inode number). */
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

/* The network namespaces that the program observes, by inode number. Fewer than 4 are repeated to fill the array. 0 in
 * the first place: the program observes all. */
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
