/* The path of a stream's event: chunks, cutting, writing. */
#include "kernel.h"

int stream_add(PyObject *module, StreamState *state)
{
    (void)module;
    (void)state;
    return 0;
}

int stream_traverse(StreamState *state, visitproc visit, void *arg)
{
    Py_VISIT(state->unused);
    return 0;
}

void stream_clear(StreamState *state)
{
    Py_CLEAR(state->unused);
}
