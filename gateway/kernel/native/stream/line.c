/* Sends bytes to a caller: see line.h. */
#include "line.h"

#include <string.h>

#define DIGITS ((int)sizeof(Py_ssize_t) * 2)

bool line_open(Line *line, PyObject *way, PyObject *tuple)
{
    PyObject *write = NULL, *flow = NULL, *caller = NULL;
    int chunked = 0;
    if (tuple != Py_None && !PyArg_ParseTuple(tuple, "OpOO", &write, &chunked, &flow, &caller))
        return false;
    line->way = Py_NewRef(way);
    line->write = Py_XNewRef(write);
    line->flow = Py_XNewRef(flow);
    line->caller = Py_XNewRef(caller);
    line->chunked = chunked;
    return true;
}

/* Write the number of a chunk's bytes up to `end`; returns where it begins. */
static char *write_size(char *end, Py_ssize_t size)
{
    for (; size > 0; size >>= 4)
        *--end = "0123456789abcdef"[size & 15];
    return end;
}

/* The text as an HTTP chunk, and the place of the text in it. */
static PyObject *framed(const char *text, Py_ssize_t size, Py_ssize_t *start)
{
    char head[DIGITS + 2] = {0}, *end = head + DIGITS;
    char *from = write_size(end, size);
    memcpy(end, "\r\n", 2);
    *start = end + 2 - from;
    PyObject *chunk = PyBytes_FromStringAndSize(NULL, *start + size + 2);
    if (chunk == NULL)
        return NULL;
    char *to = PyBytes_AsString(chunk);
    memcpy(to, from, (size_t)*start);
    memcpy(to + *start, text, (size_t)size);
    memcpy(to + *start + size, "\r\n", 2);
    return chunk;
}

static int is_true(PyObject *of, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(of, name);
    int found = value ? PyObject_IsTrue(value) : -1;
    Py_XDECREF(value);
    return found;
}

/* Whether `write` may be used now: the caller has not left. */
static int is_open(const Line *line)
{
    if (line->write == NULL)
        return 0;
    int left = is_true(line->caller, line->names->disconnected);
    return left < 0 ? -1 : !left;
}

bool line_pack(const Line *line, const char *text, Py_ssize_t size, PyObject *bytes, Packed *packed)
{
    int by_write = is_open(line);
    if (by_write < 0)
        return false;
    *packed = (Packed){.size = size, .by_write = by_write};
    if (by_write && line->chunked)
        packed->bytes = framed(text, size, &packed->start);
    else
        packed->bytes = bytes ? Py_NewRef(bytes) : PyBytes_FromStringAndSize(text, size);
    return packed->bytes != NULL;
}

int line_send(const Line *line, const Packed *packed)
{
    PyObject *by = packed->by_write ? line->write : line->way;
    PyObject *told = PyObject_CallFunctionObjArgs(by, packed->bytes, NULL);
    if (told == NULL)
        return -1;
    int goes_on = PyObject_IsTrue(told);
    Py_DECREF(told);
    if (!packed->by_write || goes_on < 0)
        return goes_on;
    int full = is_true(line->flow, line->names->write_paused);
    return full < 0 ? -1 : !full;
}

void line_clear(Line *line)
{
    Py_CLEAR(line->way);
    Py_CLEAR(line->write);
    Py_CLEAR(line->flow);
    Py_CLEAR(line->caller);
}

int line_traverse(Line *line, visitproc visit, void *arg)
{
    Py_VISIT(line->way);
    Py_VISIT(line->write);
    Py_VISIT(line->flow);
    Py_VISIT(line->caller);
    return 0;
}
