/* What is to be sent, in a buffer that grows. */
#ifndef KERNEL_SENT_H
#define KERNEL_SENT_H

#include "stream/events/members.h"

typedef struct {
    char *data;
    Py_ssize_t size;
    Py_ssize_t room;
} Sent;

/* The most bytes that a text of `size` bytes may have once fields in it are null. */
Py_ssize_t size_with_nulls(Py_ssize_t size);

/* Begin anew with room for `size` bytes; false with an exception set. */
bool sent_reserve(Sent *sent, Py_ssize_t size);

/* Add the bytes between two places, for which there is room. */
void sent_put(Sent *sent, const char *from, const char *to);

/* Add the bytes up to `span` and null in its place; returns the place after it. */
const char *sent_put_null(Sent *sent, const char *from, Span span);

void sent_free(Sent *sent);

#endif
