/* The lines of an HTTP/1.1 head that is as most are: whatever is unusual is left to llhttp. */
#ifndef HTTP_HEAD_H
#define HTTP_HEAD_H

#include "kernel.h"

#include <stdbool.h>

/* What is left of a message: a reader never goes past `end`. */
typedef struct {
    const char *at, *end;
} Rest;

/* `length` is that of the body, -1 if no line says it. */
typedef struct {
    Py_ssize_t length, lines;
} Framing;

/* Pass over `text` if the rest begins with it. */
bool pass_text(Rest *rest, const char *text, size_t size);

/* Whether a byte may stand in the target of a request that is not left, or in a value. */
bool in_target(char one);
bool in_value(char one);

/* Read all lines and the empty one after them; return (name, value) of each, the names in lower
 * case. NULL without an exception: the head is left, because a line is not plain, says something
 * of the connection or of the framing other than a length, or because it is not whole. */
PyObject *read_lines(Rest *rest, Framing *framing);

/* The rest as bytes, if it has the length of the body; NULL without an exception if not. */
PyObject *whole_body(Rest rest, Framing framing);

#endif
