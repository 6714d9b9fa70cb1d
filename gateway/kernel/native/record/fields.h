/* Fields of an object, in any order, each at most once. */
#ifndef KERNEL_FIELDS_H
#define KERNEL_FIELDS_H

#include "json/json.h"

typedef struct {
    const char *quoted; /* with quotes and a colon */
    size_t size;        /* of the name alone */
} Field;

#define FIELD(name) {"\"" name "\":", sizeof(name) - 1}

typedef struct {
    const Field *fields;
    unsigned count, expected;
    uint32_t seen;
    bool first;
} Fields;

#define FIELDS(table) {table, sizeof(table) / sizeof(table[0]), 0, 0, true}

enum { NO_FIELD = -1, NOT_SURE = -2 };

/* Appends the name with its quotes and a colon. */
static inline bool put_name(Out *out, const Field *field)
{
    return out_put(out, field->quoted, field->size + 3);
}

/* The number of the next field, at whose value the reader then stands. */
int next_field(Fields *fields, Reader *reader);

#endif
