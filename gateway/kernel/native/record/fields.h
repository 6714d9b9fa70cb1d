/* Fields of an object, in any order, each at most once. */
#ifndef KERNEL_FIELDS_H
#define KERNEL_FIELDS_H

#include "json/json.h"

typedef struct {
    const char *quoted; /* with quotes and a colon */
    size_t size;        /* of the name alone */
} Field;

#define FIELD(name) {"\"" name "\":", sizeof(name) - 1}

#define MAX_FIELDS 16

/* The order of the fields in the objects so far, zeroed at first: for each field and, at 0, for the
 * beginning, one more than the number of the field that came next; 0 if it is unknown. */
typedef struct {
    uint8_t after[MAX_FIELDS + 1];
} Order;

typedef struct {
    const Field *fields;
    unsigned count, last; /* one more than the number of the latest field */
    uint32_t seen;
    bool first;
    Order *order; /* of the objects of this kind, or NULL: as in the table */
} Fields;

#define FIELDS(table) FIELDS_IN_ORDER(table, NULL)
#define FIELDS_IN_ORDER(table, order) {table, sizeof(table) / sizeof(table[0]), 0, 0, true, order}

enum { NO_FIELD = -1, NOT_SURE = -2 };

/* Appends the name with its quotes and a colon. */
static inline bool put_name(Out *out, const Field *field)
{
    return out_put(out, field->quoted, field->size + 3);
}

/* The number of the next field, at whose value the reader then stands. */
int next_field(Fields *fields, Reader *reader);

#endif
