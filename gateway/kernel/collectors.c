/* What observers gather and time of a stream: see collectors.h. */
#include "collectors.h"

#include <string.h>

/* Open */

static int is_closed(PyObject *collector)
{
    PyObject *closed = PyObject_GetAttrString(collector, "closed");
    int value = closed ? PyObject_IsTrue(closed) : -1;
    Py_XDECREF(closed);
    return value;
}

static bool fill_gather(Gather *one, PyObject *chunks, PyObject *times, PyObject *room)
{
    one->room = PyLong_AsSsize_t(room);
    if (one->room == -1 && PyErr_Occurred())
        return false;
    if (!PyList_Check(chunks) || !(times == Py_None || PyList_Check(times))) {
        PyErr_SetString(PyExc_TypeError, "chunks and times must be lists");
        return false;
    }
    one->chunks = Py_NewRef(chunks);
    one->times = times == Py_None ? NULL : Py_NewRef(times);
    return true;
}

static bool open_gather(Collectors *collectors, PyObject *collector)
{
    PyObject *chunks = PyObject_GetAttrString(collector, "chunks");
    PyObject *times = chunks ? PyObject_GetAttrString(collector, "times") : NULL;
    PyObject *room = times ? PyObject_GetAttrString(collector, "room") : NULL;
    Gather *one = &collectors->gather[collectors->gathers];
    bool done = room != NULL && fill_gather(one, chunks, times, room);
    if (done) {
        one->collector = Py_NewRef(collector);
        collectors->gathers++;
    }
    Py_XDECREF(chunks);
    Py_XDECREF(times);
    Py_XDECREF(room);
    return done;
}

static bool fill_bounds(Gaps *one, PyObject *bounds)
{
    if (!PyTuple_Check(bounds) || PyTuple_Size(bounds) > MAX_BOUNDS) {
        PyErr_SetString(PyExc_ValueError, "bounds must be a short tuple");
        return false;
    }
    one->bounds = (int)PyTuple_Size(bounds);
    for (int place = 0; place < one->bounds; place++) {
        one->bound[place] = PyFloat_AsDouble(PyTuple_GetItem(bounds, place));
        if (one->bound[place] == -1.0 && PyErr_Occurred())
            return false;
    }
    return true;
}

static bool open_gaps(Collectors *collectors, PyObject *collector)
{
    if (collectors->gaps == NULL && (collectors->gaps = PyMem_Calloc(MAX_COLLECTORS, sizeof(Gaps))) == NULL) {
        PyErr_NoMemory();
        return false;
    }
    PyObject *bounds = PyObject_GetAttrString(collector, "bounds");
    PyObject *last = bounds ? PyObject_GetAttrString(collector, "last") : NULL;
    Gaps *one = &collectors->gaps[collectors->paces];
    *one = (Gaps){0};
    bool done = last != NULL && fill_bounds(one, bounds);
    if (done) {
        one->last = PyFloat_AsDouble(last);
        done = one->last != -1.0 || !PyErr_Occurred();
    }
    if (done) {
        one->collector = Py_NewRef(collector);
        collectors->paces++;
    }
    Py_XDECREF(bounds);
    Py_XDECREF(last);
    return done;
}

static bool open_all(Collectors *collectors, PyObject *all, bool (*open)(Collectors *, PyObject *))
{
    Py_ssize_t count = PyTuple_Size(all);
    if (count > MAX_COLLECTORS) {
        PyErr_SetString(PyExc_ValueError, "there are too many collectors");
        return false;
    }
    for (Py_ssize_t place = 0; place < count; place++) {
        PyObject *collector = PyTuple_GetItem(all, place);
        int closed = is_closed(collector);
        if (closed < 0 || (!closed && !open(collectors, collector)))
            return false;
    }
    return true;
}

bool collectors_open(Collectors *collectors, PyObject *gathered, PyObject *timed)
{
    collectors_close(collectors);
    if (open_all(collectors, gathered, open_gather) && open_all(collectors, timed, open_gaps))
        return true;
    collectors_close(collectors);
    return false;
}

/* Add */

bool collectors_have_room(const Collectors *collectors, Py_ssize_t size)
{
    for (int place = 0; place < collectors->gathers; place++)
        if (collectors->gather[place].room < size)
            return false;
    return true;
}

static bool gather_all(Collectors *collectors, PyObject *chunk, PyObject *time)
{
    for (int place = 0; place < collectors->gathers; place++) {
        Gather *one = &collectors->gather[place];
        if (PyList_Append(one->chunks, chunk) < 0)
            return false;
        if (one->times != NULL && PyList_Append(one->times, time) < 0)
            return false;
        one->room -= PyBytes_Size(chunk);
    }
    return true;
}

static void pace(Gaps *one, Py_ssize_t events, double time)
{
    if (one->last == 0.0) {
        one->first = time;
    } else {
        double gap = time - one->last;
        int bound = 0;
        while (bound < one->bounds && one->bound[bound] < gap)
            bound++;
        one->count[bound]++;
        one->sum += gap;
    }
    one->count[0] += events - 1;
    one->last = time;
}

bool collectors_add(Collectors *collectors, PyObject *chunk, Py_ssize_t events, double time)
{
    if (collectors->gathers > 0) {
        PyObject *when = PyFloat_FromDouble(time);
        bool done = when != NULL && gather_all(collectors, chunk, when);
        Py_XDECREF(when);
        if (!done)
            return false;
    }
    for (int place = 0; place < collectors->paces; place++)
        pace(&collectors->gaps[place], events, time);
    return true;
}

/* Settle */

static bool settle_gather(const Gather *one)
{
    PyObject *room = PyLong_FromSsize_t(one->room);
    bool done = room != NULL && PyObject_SetAttrString(one->collector, "room", room) == 0;
    Py_XDECREF(room);
    return done;
}

static bool settle_gaps(const Gaps *one)
{
    PyObject *counts = PyList_New(one->bounds + 1);
    for (int place = 0; counts != NULL && place <= one->bounds; place++) {
        PyObject *count = PyLong_FromLongLong(one->count[place]);
        if (count == NULL)
            Py_CLEAR(counts);
        else
            PyList_SetItem(counts, place, count);
    }
    if (counts == NULL)
        return false;
    PyObject *told = PyObject_CallMethod(one->collector, "merge", "Oddd", counts, one->sum, one->first,
                                         one->last);
    Py_DECREF(counts);
    Py_XDECREF(told);
    return told != NULL;
}

bool collectors_settle(Collectors *collectors)
{
    bool done = true;
    for (int place = 0; done && place < collectors->gathers; place++)
        done = settle_gather(&collectors->gather[place]);
    for (int place = 0; done && place < collectors->paces; place++)
        done = settle_gaps(&collectors->gaps[place]);
    collectors_close(collectors);
    return done;
}

/* The end */

void collectors_close(Collectors *collectors)
{
    while (collectors->gathers > 0) {
        Gather *one = &collectors->gather[--collectors->gathers];
        Py_CLEAR(one->collector);
        Py_CLEAR(one->chunks);
        Py_CLEAR(one->times);
    }
    while (collectors->paces > 0) {
        Gaps *one = &collectors->gaps[--collectors->paces];
        Py_CLEAR(one->collector);
    }
}

void collectors_free(Collectors *collectors)
{
    collectors_close(collectors);
    PyMem_Free(collectors->gaps);
    collectors->gaps = NULL;
}

int collectors_traverse(Collectors *collectors, visitproc visit, void *arg)
{
    for (int place = 0; place < collectors->gathers; place++) {
        Py_VISIT(collectors->gather[place].collector);
        Py_VISIT(collectors->gather[place].chunks);
        Py_VISIT(collectors->gather[place].times);
    }
    for (int place = 0; place < collectors->paces; place++)
        Py_VISIT(collectors->gaps[place].collector);
    return 0;
}
