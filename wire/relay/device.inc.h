/* Packet sockets: opens one on a device and reads frames from it, with their VLAN tags.
 *
 * A part of relay.c, which defines _GNU_SOURCE. */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>

#include "direction.inc.h"

#define BATCH 64
#define LARGEST (65535 + ETHERNET_HEADER)
#define TAG 4 /* bytes of a VLAN tag, which the kernel removes from a received frame */
#define BUFFERS (64 << 20)

static int open_device(int ifindex)
{
    int one = 1, size = BUFFERS;
    /* Protocol 0: the socket receives no frame until bind(), after all options are set. */
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = ifindex};
    if (fd < 0)
        fail("packet socket");
    if (setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one)) != 0)
        fail("PACKET_IGNORE_OUTGOING");
    if (setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &one, sizeof(one)) != 0)
        fail("PACKET_AUXDATA");
    if (setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof(one)) != 0)
        fail("SO_TIMESTAMPNS");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) != 0)
        fail("SO_RCVBUFFORCE");
    /* Sent frames count against this buffer until the other host's CPU takes them. The default holds 92 frames, but the
     * CPU's queue (netdev_max_backlog) holds 1000: send() would fail too early while that CPU is busy. */
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) != 0)
        fail("SO_SNDBUFFORCE");
    if (bind(fd, (struct sockaddr *)&where, sizeof(where)) != 0)
        fail("bind");
    return fd;
}

/* Insert the VLAN tag that the kernel removed. `data` has TAG bytes of room before it. Return the frame's new start. */
static uint8_t *tag(uint8_t *data, const struct tpacket_auxdata *aux)
{
    uint16_t type = aux->tp_status & TP_STATUS_VLAN_TPID_VALID ? aux->tp_vlan_tpid : ETH_P_8021Q;
    uint16_t fields[] = {htons(type), htons(aux->tp_vlan_tci)};
    memmove(data - TAG, data, 2 * ETH_ALEN);
    memcpy(data - TAG + 2 * ETH_ALEN, fields, TAG);
    return data - TAG;
}

static void unpack(struct direction *d, struct msghdr *message, size_t length)
{
    uint8_t *data = message->msg_iov->iov_base;
    struct timespec stamp = {0};
    struct tpacket_auxdata aux = {0};
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS)
            memcpy(&stamp, CMSG_DATA(c), sizeof(stamp));
        if (c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA)
            memcpy(&aux, CMSG_DATA(c), sizeof(aux));
    }
    if (aux.tp_status & TP_STATUS_VLAN_VALID) {
        data = tag(data, &aux);
        length += TAG;
    }
    d->unfinished += !!(aux.tp_status & TP_STATUS_CSUMNOTREADY);
    struct frame frame = {
        .arrived_low_ns = ns_of(stamp) - offset.high_ns,
        .arrived_high_ns = ns_of(stamp) - offset.low_ns,
        .length = length,
    };
    arrive(d, &frame, data);
}

/* Read at most BATCH frames. Return their number. */
static int receive(struct direction *d)
{
    static uint8_t data[BATCH][TAG + LARGEST];
    static uint8_t control[BATCH][256];
    static struct iovec iov[BATCH];
    static struct mmsghdr messages[BATCH];
    static int prepared;
    for (; prepared < BATCH; prepared++) {
        iov[prepared] = (struct iovec){data[prepared] + TAG, LARGEST};
        messages[prepared].msg_hdr = (struct msghdr){.msg_iov = &iov[prepared], .msg_iovlen = 1};
    }
    for (int i = 0; i < BATCH; i++) { /* recvmmsg() overwrites the lengths */
        messages[i].msg_hdr.msg_control = control[i];
        messages[i].msg_hdr.msg_controllen = sizeof(control[i]);
    }
    int count = recvmmsg(d->in, messages, BATCH, MSG_DONTWAIT, NULL);
    if (count < 0) {
        if (errno == ENETDOWN)
            d->down++;
        else if (errno != EAGAIN && errno != EINTR)
            fail("receive");
        return 0;
    }
    clock_sets += !narrow(&offset);
    for (int i = 0; i < count; i++)
        unpack(d, &messages[i].msg_hdr, messages[i].msg_len);
    return count;
}
