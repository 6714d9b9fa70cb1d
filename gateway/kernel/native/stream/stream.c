/* The path of a stream's event: its types, and what they share. */
#include "chunks.h"
#include "stream/events/cut.h"
#include "stream/events/strip.h"
#include "tap.h"

StreamState *stream_state(PyTypeObject *type)
{
    KernelState *state = PyType_GetModuleState(type);
    return state ? &state->stream : NULL;
}

static PyObject *is_chunks(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *text, *pieces;
    if (!PyArg_ParseTuple(args, "SO!", &text, &PyList_Type, &pieces))
        return NULL;
    return PyBool_FromLong(are_chunks(PyBytes_AsString(text), PyBytes_Size(text), pieces));
}

static PyMethodDef functions[] = {
    {"is_chunks", is_chunks, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* Add a type under `name`; returns it, borrowed from the module, or NULL. */
static PyObject *add_type(PyObject *module, const char *name, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    int added = type ? PyModule_AddObjectRef(module, name, type) : -1;
    Py_XDECREF(type);
    return added < 0 ? NULL : type;
}

/* The attributes that the kernel reads and writes, in the order of `Names`. */
static const char *const NAMES[] = {"bounds", "chunks", "closed", "counts", "first",
                                    "histogram", "last", "room", "sum", "times",
                                    "disconnected", "write_paused"};
#define NAME_COUNT ((int)(sizeof NAMES / sizeof *NAMES))

static PyObject **name_places(Names *names, int place)
{
    PyObject **all[] = {&names->bounds, &names->chunks, &names->closed, &names->counts,
                        &names->first, &names->histogram, &names->last, &names->room,
                        &names->sum, &names->times, &names->disconnected, &names->write_paused};
    return all[place];
}

int stream_add(PyObject *module, StreamState *state)
{
    for (int place = 0; place < NAME_COUNT; place++) {
        PyObject **name = name_places(&state->names, place);
        *name = PyUnicode_InternFromString(NAMES[place]);
        if (*name == NULL)
            return -1;
    }
    state->cut = Py_XNewRef(add_type(module, "cut", &cut_spec));
    state->strip = Py_XNewRef(add_type(module, "strip", &strip_spec));
    if (state->cut == NULL || state->strip == NULL || add_type(module, "tap", &tap_spec) == NULL)
        return -1;
    return PyModule_AddFunctions(module, functions);
}

int stream_traverse(StreamState *state, visitproc visit, void *arg)
{
    Py_VISIT(state->cut);
    Py_VISIT(state->strip);
    return 0;
}

void stream_clear(StreamState *state)
{
    Py_CLEAR(state->cut);
    Py_CLEAR(state->strip);
    for (int place = 0; place < NAME_COUNT; place++)
        Py_CLEAR(*name_places(&state->names, place));
}
