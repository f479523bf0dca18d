/* A queue of frames on the wire, in order of departure. */
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct frame {
    struct frame *next;
    int64_t arrived_low_ns;
    int64_t arrived_high_ns;
    int64_t due_ns;
    uint64_t ordinal;
    uint32_t conditions;
    int32_t flipped_bit;
    uint8_t marks;
    uint32_t length;
    uint8_t data[];
};

struct queue {
    struct frame *head;
    struct frame **tail;
    uint64_t length;
    int64_t last_due_ns; /* of the last frame queued, also after it has left */
};

static inline void init(struct queue *queue)
{
    *queue = (struct queue){.tail = &queue->head};
}

static inline void put(struct queue *queue, struct frame *frame)
{
    frame->next = NULL;
    *queue->tail = frame;
    queue->tail = &frame->next;
    queue->length++;
}

static inline struct frame *take(struct queue *queue)
{
    struct frame *frame = queue->head;
    queue->head = frame->next;
    if (!queue->head)
        queue->tail = &queue->head;
    queue->length--;
    return frame;
}

/* Return a copy on the heap of a received frame. Without memory the relay aborts: it cannot forward the frame. */
static inline struct frame *copy_of(const struct frame *like, const uint8_t *data)
{
    struct frame *frame = malloc(sizeof(*frame) + like->length);
    if (!frame)
        abort();
    *frame = *like;
    memcpy(frame->data, data, like->length);
    return frame;
}

static inline void flip(uint8_t *data, int32_t bit)
{
    if (bit >= 0)
        data[bit / 8] ^= 1 << bit % 8;
}
