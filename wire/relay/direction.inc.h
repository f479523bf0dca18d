/* The two directions of the wire and the log: drops, queues, sends and logs frames.
 *
 * A part of relay.c, which defines _GNU_SOURCE. */
#pragma once

#include <stdio.h>
#include <sys/socket.h>

#include "../clock.h"
#include "../process.h"
#include "conditions.h"
#include "queue.h"
#include "record.h"

struct direction {
    int in;  /* packet socket of the device where the frames arrive */
    int out; /* packet socket of the device where they leave */
    struct conditions now;
    struct conditions before; /* for frames that arrived before the change of conditions and are read after it */
    struct conditions next;   /* set, and not applied yet */
    struct queue queue;
    uint64_t arrived;
    uint64_t dropped;    /* by the kernel: no room in the socket's buffer */
    uint64_t refused;    /* send() failed */
    uint64_t unfinished; /* frames without a checksum, left to the device by the sender */
    uint64_t down;       /* times that the device went down or disappeared */
};

static struct direction directions[2];
static struct record *records;
static uint64_t room, logged, unlogged, clock_sets;
static struct offset offset;

static void note(const struct direction *d, const struct frame *f, const uint8_t *data, enum fate fate, int64_t low_ns,
                 int64_t high_ns)
{
    if (logged == room) {
        unlogged++;
        return;
    }
    struct record *record = &records[logged++];
    *record = (struct record){
        .arrived_low_ns = f->arrived_low_ns,
        .arrived_high_ns = f->arrived_high_ns,
        .due_ns = f->due_ns,
        .sent_low_ns = low_ns,
        .sent_high_ns = high_ns,
        .ordinal = f->ordinal,
        .conditions = f->conditions,
        .length = f->length,
        .flipped_bit = f->flipped_bit,
        .direction = d - directions,
        .fate = fate,
        .marks = f->marks,
    };
    memcpy(record->head, data, f->length < HEAD_BYTES ? f->length : HEAD_BYTES);
}

/* Send a frame, log it and free it. Return the time after send(). */
static int64_t depart(struct direction *d, struct frame *frame)
{
    int64_t low_ns = now_ns();
    ssize_t sent = send(d->out, frame->data, frame->length, MSG_DONTWAIT);
    int64_t high_ns = now_ns();
    bool taken = sent == (ssize_t)frame->length;
    d->refused += !taken;
    flip(frame->data, frame->flipped_bit); /* the log holds frames as they arrived */
    note(d, frame, frame->data, taken ? FORWARDED : REFUSED, taken ? low_ns : -1, taken ? high_ns : -1);
    free(frame);
    return high_ns;
}

static void enqueue(struct direction *d, const struct conditions *conditions, const struct frame *like,
                    const uint8_t *data)
{
    if (d->queue.length >= conditions->limit) {
        note(d, like, data, OVERFLOWED, -1, -1);
        return;
    }
    struct frame *frame = copy_of(like, data);
    flip(frame->data, frame->flipped_bit);
    if (frame->marks & HURRIED) {
        depart(d, frame);
        return;
    }
    if (frame->due_ns < d->queue.last_due_ns)
        frame->due_ns = d->queue.last_due_ns; /* only HURRIED frames overtake */
    frame->due_ns += transmission_ns(conditions, frame->length);
    d->queue.last_due_ns = frame->due_ns;
    put(&d->queue, frame);
}

/* Decide about a frame that has arrived, and lose, queue or send it. */
static void arrive(struct direction *d, struct frame *f, const uint8_t *data)
{
    struct conditions *conditions = f->arrived_low_ns >= d->now.since_ns ? &d->now : &d->before;
    struct decision decision = decide(conditions, d - directions, data, f->length);
    f->ordinal = ++d->arrived;
    f->conditions = conditions->number;
    f->flipped_bit = -1;
    f->due_ns = f->arrived_high_ns + (decision.hurried ? 0 : conditions->delay_ns + decision.jitter_ns);
    if (decision.lost) {
        note(d, f, data, LOST, -1, -1);
        return;
    }
    f->flipped_bit = decision.flipped_bit;
    f->marks = (decision.hurried ? HURRIED : 0) | (decision.flipped_bit >= 0 ? CORRUPTED : 0);
    enqueue(d, conditions, f, data);
    if (decision.copied) {
        f->marks |= COPY;
        enqueue(d, conditions, f, data);
    }
}
