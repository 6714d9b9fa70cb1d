/* What the files that read a stream share: events.c reads an event, chunk.c what it has of one
 * choice, and skeleton.c writes what they have found. */
#ifndef KERNEL_EVENTS_H
#define KERNEL_EVENTS_H

#include "record/answer.h"

/* A place in an Out. */
typedef struct {
    size_t from, size;
} Piece;

static inline Slice slice_of(const Out *out, Piece piece)
{
    return (Slice){piece.size ? out->data + piece.from : NULL, piece.size};
}

/* The fields that tell how a choice ended, in the order in which a skeleton has them. */
typedef struct {
    int field;
    Field name;
} End;

extern const End ENDS[4];

enum { ID, OBJECT, CREATED, MODEL, USAGE, PROMPT_TEXT, SYSTEM_FINGERPRINT, SERVICE_TIER,
       EVENT_PROMPT_IDS, CHOICES, EVENT_FIELDS };

extern const Field EVENT[EVENT_FIELDS];

/* What the skeleton has of the events: FIRST of the first one, LAST of the last that has one.
 *
 * `before`: how an event begins, up to the value of its choices, if it has nothing there that the
 * skeleton takes of a later event than the first; `seen` are the fields in it. */
typedef struct {
    Out fields[EVENT_FIELDS];
    Slice before;
    uint32_t seen;
} Outside;

/* Reads a chunk into its choice, which is made if it is the first one. */
bool take_chunk(Answer *answer, Reader *reader);

/* Writes the skeleton of all choices. */
bool put_skeleton(Answer *answer, const Outside *outside);

#endif
