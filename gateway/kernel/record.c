/* From an answer to its record, in one pass. */
#include "kernel.h"

int record_add(PyObject *module, RecordState *state)
{
    (void)module;
    (void)state;
    return 0;
}

int record_traverse(RecordState *state, visitproc visit, void *arg)
{
    Py_VISIT(state->unused);
    return 0;
}

void record_clear(RecordState *state)
{
    Py_CLEAR(state->unused);
}
