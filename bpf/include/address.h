/* An IPv4 or IPv6 address of a socket or a packet. */
#pragma once

#include <linux/types.h>

struct address {
    u32 words[4]; /* network order; IPv4 as ::ffff:a.b.c.d, so that the same code handles both versions */
};

static inline void map_ipv4(struct address *to, u32 address)
{
    to->words[0] = 0;
    to->words[1] = 0;
    to->words[2] = bpf_htonl(0xffff);
    to->words[3] = address;
}
