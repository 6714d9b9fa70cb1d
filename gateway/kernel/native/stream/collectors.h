/* What observers gather and time of a stream: see `gateway.telemetry.collectors`. */
#ifndef KERNEL_COLLECTORS_H
#define KERNEL_COLLECTORS_H

#include "kernel.h"

#include <stdbool.h>

#define MAX_COLLECTORS 8
#define MAX_BOUNDS 32

/* A list of chunks, and that of the times at which they arrived if there is one. */
typedef struct {
    PyObject *collector;
    PyObject *chunks;
    PyObject *times;
    Py_ssize_t room;
} Gather;

/* A histogram of the seconds between events, of what happened since it was opened. */
typedef struct {
    PyObject *collector;
    PyObject *histogram;
    PyObject *bounds_read; /* the tuple that `bound` has been read from */
    int bounds;
    double bound[MAX_BOUNDS];
    long long count[MAX_BOUNDS + 1];
    double first;
    double last;
    double sum;
} Gaps;

typedef struct {
    int gathers;
    int paces;
    Gather gather[MAX_COLLECTORS];
    int room; /* for gaps */
    Gaps *gaps;
    const Names *names; /* of the module, which outlives its types */
} Collectors;

/* Open those of two tuples that still take in; false with an exception set. */
bool collectors_open(Collectors *collectors, PyObject *gathered, PyObject *timed);

/* Whether a chunk of `size` bytes may be added. If not, the collectors' own Python code decides. */
bool collectors_have_room(const Collectors *collectors, Py_ssize_t size);

/* Add a chunk with some events; false with an exception set. */
bool collectors_add(Collectors *collectors, PyObject *chunk, Py_ssize_t events, double time);

/* Tell the objects in Python what happened, and close; false with an exception set. */
bool collectors_settle(Collectors *collectors);

void collectors_close(Collectors *collectors);
void collectors_free(Collectors *collectors);
int collectors_traverse(Collectors *collectors, visitproc visit, void *arg);

#endif
