/* What the parts of the native kernel share. Every file includes this one first. */
#ifndef KERNEL_H
#define KERNEL_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

/* A part adds its functions and types to the module, and keeps what it needs of them in its state. */
typedef struct {
    PyObject *bounds, *chunks, *closed, *counts, *first, *histogram, *last, *room, *sum, *times;
    PyObject *disconnected, *write_paused;
} Names;

typedef struct {
    PyObject *cut, *strip; /* the types */
    Names names;           /* of attributes */
} StreamState;

typedef struct {
    StreamState stream;
} KernelState;

/* 0, or -1 with an exception set. */
int stream_add(PyObject *module, StreamState *state);
int record_add(PyObject *module);
int strip_add(PyObject *module);
int request_add(PyObject *module);
int http_add(PyObject *module);
int usage_add(PyObject *module);

/* For the garbage collector: what the state refers to. */
int stream_traverse(StreamState *state, visitproc visit, void *arg);
void stream_clear(StreamState *state);

#endif
