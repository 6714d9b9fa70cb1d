/* The members of an object whose keys are known. */
#ifndef KERNEL_MEMBERS_H
#define KERNEL_MEMBERS_H

#include "kernel.h"

#include <stdbool.h>
#include <string.h>

typedef struct {
    const char *text; /* without quotation marks */
    Py_ssize_t size;
} Key;

/* Where the value of a member begins and ends; NULL twice if there is none. */
typedef struct {
    const char *value;
    const char *end;
} Span;

/* Whether the value is `text`. */
static inline bool is_text(Span span, const char *text)
{
    size_t size = strlen(text);
    return span.value != NULL && (size_t)(span.end - span.value) == size &&
           memcmp(span.value, text, size) == 0;
}

/* Whether there is a value, and it is not null. */
static inline bool tells(Span span)
{
    return span.value != NULL && !is_text(span, "null");
}

/* Read the key at `*at`, a quotation mark, a name and `":`, if it is one of `count` keys from `place`
 * on. Returns its place, and goes on behind it; -1: it is none. */
int read_key(const Key *keys, int count, int place, const char **at, const char *end);

/* Find the members of the object at `at`: known keys, each at most once, in order, without space.
 * Returns the place after the object, or NULL. `found` has `count` elements, all of them empty. */
const char *read_members(const Key *keys, int count, const char *at, const char *end, Span *found);

#endif
