/* What is to be sent: see sent.h. */
#include "stream/events/sent.h"

#include <string.h>

#define NULL_TEXT "null"
#define NULL_SIZE 4

/* A member with an injected field takes at least as many bytes as `"logprobs":0`. */
#define LEAST_MEMBER 12

Py_ssize_t size_with_nulls(Py_ssize_t size)
{
    return size + size / LEAST_MEMBER * (NULL_SIZE - 1) + NULL_SIZE;
}

bool sent_reserve(Sent *sent, Py_ssize_t size)
{
    sent->size = 0;
    if (sent->room >= size)
        return true;
    char *more = PyMem_Realloc(sent->data, (size_t)size);
    if (more == NULL) {
        PyErr_NoMemory();
        return false;
    }
    sent->data = more;
    sent->room = size;
    return true;
}

void sent_put(Sent *sent, const char *from, const char *to)
{
    size_t size = (size_t)(to - from);
    if (size > (size_t)(sent->room - sent->size))
        size = (size_t)(sent->room - sent->size); /* never: see `sent_reserve` */
    if (size > 0)
        memcpy(sent->data + sent->size, from, size);
    sent->size += (Py_ssize_t)size;
}

const char *sent_put_null(Sent *sent, const char *from, Span span)
{
    sent_put(sent, from, span.value);
    sent_put(sent, NULL_TEXT, NULL_TEXT + NULL_SIZE);
    return span.end;
}

void sent_free(Sent *sent)
{
    PyMem_Free(sent->data);
    *sent = (Sent){0};
}
