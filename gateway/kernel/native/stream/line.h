/* The line to a caller: what a connection's own `write` in Python does, see `Line` in interface.py. */
#ifndef KERNEL_LINE_H
#define KERNEL_LINE_H

#include "kernel.h"

#include <stdbool.h>

typedef struct {
    PyObject *way;   /* sends bytes, and tells whether more may follow */
    PyObject *write; /* of the connection, NULL: only `way` may be used */
    PyObject *flow;
    PyObject *caller;
    bool chunked;
    const Names *names; /* of the module */
} Line;

/* Bytes as they are sent; the text in them begins at `start`. */
typedef struct {
    PyObject *bytes;
    Py_ssize_t start;
    Py_ssize_t size;
    bool by_write;
} Packed;

/* Use the tuple `line`, or None; false with an exception set. */
bool line_open(Line *line, PyObject *way, PyObject *tuple);

/* Pack a text, which is the content of `bytes` unless that is NULL. Returns a new reference in `packed`;
 * false with an exception set. */
bool line_pack(const Line *line, const char *text, Py_ssize_t size, PyObject *bytes, Packed *packed);

/* Returns 1 if more may follow, 0 if the caller is full, -1 with an exception set. */
int line_send(const Line *line, const Packed *packed);

void line_clear(Line *line);
int line_traverse(Line *line, visitproc visit, void *arg);

#endif
