/* What observers gather and time of a stream: see collectors.h. */
#include "collectors.h"

#include <string.h>

static int is_closed(PyObject *collector, const Names *names)
{
    PyObject *closed = PyObject_GetAttr(collector, names->closed);
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
    const Names *names = collectors->names;
    PyObject *chunks = PyObject_GetAttr(collector, names->chunks);
    PyObject *times = chunks ? PyObject_GetAttr(collector, names->times) : NULL;
    PyObject *room = times ? PyObject_GetAttr(collector, names->room) : NULL;
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
    if (bounds == one->bounds_read)
        return true;
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
    Py_XDECREF(one->bounds_read);
    one->bounds_read = Py_NewRef(bounds);
    return true;
}

static bool fill_gaps(Gaps *one, PyObject *histogram, PyObject *bounds, PyObject *last)
{
    if (!fill_bounds(one, bounds))
        return false;
    one->last = PyFloat_AsDouble(last);
    if (one->last == -1.0 && PyErr_Occurred())
        return false;
    memset(one->count, 0, sizeof one->count);
    one->first = one->sum = 0.0;
    one->histogram = Py_NewRef(histogram);
    return true;
}

static bool open_gaps(Collectors *collectors, PyObject *collector)
{
    const Names *names = collectors->names;
    PyObject *histogram = PyObject_GetAttr(collector, names->histogram);
    PyObject *bounds = histogram ? PyObject_GetAttr(histogram, names->bounds) : NULL;
    PyObject *last = bounds ? PyObject_GetAttr(collector, names->last) : NULL;
    Gaps *one = &collectors->gaps[collectors->paces];
    bool done = last != NULL && fill_gaps(one, histogram, bounds, last);
    if (done) {
        one->collector = Py_NewRef(collector);
        collectors->paces++;
    }
    Py_XDECREF(histogram);
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
        int closed = is_closed(collector, collectors->names);
        if (closed < 0 || (!closed && !open(collectors, collector)))
            return false;
    }
    return true;
}

static bool make_gaps(Collectors *collectors, Py_ssize_t count)
{
    if (count <= collectors->room || count > MAX_COLLECTORS)
        return true;
    collectors_free(collectors);
    collectors->gaps = PyMem_Calloc((size_t)count, sizeof(Gaps));
    if (collectors->gaps == NULL) {
        PyErr_NoMemory();
        return false;
    }
    collectors->room = (int)count;
    return true;
}

bool collectors_open(Collectors *collectors, PyObject *gathered, PyObject *timed)
{
    collectors_close(collectors);
    if (make_gaps(collectors, PyTuple_Size(timed)) &&
        open_all(collectors, gathered, open_gather) && open_all(collectors, timed, open_gaps))
        return true;
    collectors_close(collectors);
    return false;
}

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

/* Consumes `value`, which may be NULL. */
static bool set(PyObject *of, PyObject *name, PyObject *value)
{
    bool done = value != NULL && PyObject_SetAttr(of, name, value) == 0;
    Py_XDECREF(value);
    return done;
}

static bool settle_counts(const Gaps *one, PyObject *counts)
{
    if (!PyList_Check(counts) || PyList_Size(counts) != one->bounds + 1) {
        PyErr_SetString(PyExc_TypeError, "counts must be a list with one more than bounds");
        return false;
    }
    for (int place = 0; place <= one->bounds; place++) {
        if (one->count[place] == 0)
            continue;
        long long before = PyLong_AsLongLong(PyList_GetItem(counts, place));
        if (before == -1 && PyErr_Occurred())
            return false;
        PyObject *count = PyLong_FromLongLong(before + one->count[place]);
        if (count == NULL || PyList_SetItem(counts, place, count) < 0)
            return false;
    }
    return true;
}

static bool settle_sum(const Gaps *one, const Names *names)
{
    PyObject *before = PyObject_GetAttr(one->histogram, names->sum);
    double sum = before ? PyFloat_AsDouble(before) : -1.0;
    Py_XDECREF(before);
    if (sum == -1.0 && PyErr_Occurred())
        return false;
    return set(one->histogram, names->sum, PyFloat_FromDouble(sum + one->sum));
}

static bool settle_gaps(const Gaps *one, const Names *names)
{
    PyObject *counts = PyObject_GetAttr(one->histogram, names->counts);
    bool done = counts != NULL && settle_counts(one, counts) && settle_sum(one, names);
    Py_XDECREF(counts);
    if (done && one->first != 0.0)
        done = set(one->collector, names->first, PyFloat_FromDouble(one->first));
    return done && set(one->collector, names->last, PyFloat_FromDouble(one->last));
}

bool collectors_settle(Collectors *collectors)
{
    const Names *names = collectors->names;
    bool done = true;
    for (int place = 0; done && place < collectors->gathers; place++) {
        const Gather *one = &collectors->gather[place];
        done = set(one->collector, names->room, PyLong_FromSsize_t(one->room));
    }
    for (int place = 0; done && place < collectors->paces; place++)
        done = settle_gaps(&collectors->gaps[place], names);
    collectors_close(collectors);
    return done;
}

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
        Py_CLEAR(one->histogram);
    }
}

void collectors_free(Collectors *collectors)
{
    collectors_close(collectors);
    for (int place = 0; place < collectors->room; place++)
        Py_CLEAR(collectors->gaps[place].bounds_read);
    PyMem_Free(collectors->gaps);
    collectors->gaps = NULL;
    collectors->room = 0;
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
    for (int place = 0; place < collectors->paces; place++)
        Py_VISIT(collectors->gaps[place].histogram);
    return 0;
}
