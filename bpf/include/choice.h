/* The network namespaces, ports, addresses and IP version that the program observes. The loader writes them before it
 * attaches the program (lab/ebpf/choice.py). Without a choice the program observes everything, or only the port -DPORT=n.
 */
#pragma once

#include "include/address.h"

/* Without BY_NETNS the program is at interfaces, each of which is in one namespace. */
#ifndef BY_NETNS
#define BY_NETNS 0
#endif
#ifndef PORT
#define PORT 0
#endif

/* Since Linux 5.14 (commit 8520e224f547) sockets have a pointer to their cgroup of version 2. */
#ifdef OFFSET__sock__sk_cgrp_data__cgroup /* FIELD(sock, sk_cgrp_data, cgroup) */
#define TELLS_CGROUP 1
#define MOST_CGROUPS 16 /* of a path */
#endif

/* Of a packet, the local end is the source. */
enum side { EITHER, LOCAL, REMOTE, SIDES };

struct choice {
#if BY_NETNS
    u32 netns[4]; /* by inode number; fewer than 4 are repeated to fill the array; 0 in the first place: all */
#endif
    u8 by_ports; /* 0: no limit by port, or the one of PORT */
    u8 by_hosts; /* 0: no limit by address and version */
    u8 version;  /* of IP; 0: both */
    u8 by_port[SIDES];
    u8 by_address[SIDES];
    u64 ports[SIDES][1024]; /* a bit for each port */
#if TELLS_CGROUP
    u64 cgroup; /* of version 2, by inode number; 0: all */
#endif
};

BPF_ARRAY(choice, struct choice, 1);
BPF_HASH(chosen_addresses, struct address, u8, 256); /* a bit for each side */

static inline struct choice *current_choice(void)
{
    int only = 0;

    return choice.lookup(&only);
}

#if BY_NETNS
static inline bool is_chosen_netns(const struct choice *chosen, u32 netns)
{
    return !chosen->netns[0] || netns == chosen->netns[0] || netns == chosen->netns[1] || netns == chosen->netns[2] ||
           netns == chosen->netns[3];
}

static inline bool is_watched(u32 netns)
{
    const struct choice *chosen = current_choice();

    return !chosen || is_chosen_netns(chosen, netns);
}
#endif

static __always_inline bool in(const u64 *ports, u16 port)
{
    return ports[port >> 6] >> (port & 63) & 1;
}

static __always_inline bool have_chosen_port(const struct choice *chosen, u16 local, u16 remote)
{
    if (!chosen || !chosen->by_ports)
        return !PORT || local == PORT || remote == PORT;
    if (chosen->by_port[EITHER] && !in(chosen->ports[EITHER], local) && !in(chosen->ports[EITHER], remote))
        return false;
    if (chosen->by_port[LOCAL] && !in(chosen->ports[LOCAL], local))
        return false;
    return !chosen->by_port[REMOTE] || in(chosen->ports[REMOTE], remote);
}

static inline u8 sides_of(const struct address *address)
{
    u8 *sides = chosen_addresses.lookup((struct address *)address);

    return sides ? *sides : 0;
}

static inline bool is_ipv4(const struct address *address)
{
    return !address->words[0] && !address->words[1] && address->words[2] == bpf_htonl(0xffff);
}

/* Return true if the addresses and the version are chosen. An AF_INET6 socket with IPv4-mapped addresses is IPv4. */
static __always_inline bool have_chosen_hosts(const struct choice *chosen, const struct address *local,
                                              const struct address *remote)
{
    u8 here, there;

    if (!chosen || !chosen->by_hosts)
        return true;
    if (chosen->version && is_ipv4(local) != (chosen->version == 4))
        return false;
    here = sides_of(local);
    there = sides_of(remote);
    if (chosen->by_address[EITHER] && !((here | there) >> EITHER & 1))
        return false;
    if (chosen->by_address[LOCAL] && !(here >> LOCAL & 1))
        return false;
    return !chosen->by_address[REMOTE] || there >> REMOTE & 1;
}

static __always_inline bool are_chosen_ends(const struct choice *chosen, const struct address *local, u16 lport,
                                            const struct address *remote, u16 rport)
{
    return have_chosen_port(chosen, lport, rport) && have_chosen_hosts(chosen, local, remote);
}
