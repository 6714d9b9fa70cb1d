/* One call for each read of a stream: takes the read apart, cuts, shows and sends it. See tap.h. */
#include "tap.h"
#include "chunks.h"
#include "stream/events/cut.h"
#include "stream/events/strip.h"
#include "collectors.h"
#include "line.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <time.h>

#define RECENT 4      /* as many reads as gateway/pipeline/relay.py looks at */
#define LEAST_READ 16 /* so that the reply's last bytes are of one read */
#define DONE "[DONE]"
#define DONE_SIZE 6
#define BEHIND_DONE 4

typedef struct {
    PyObject_HEAD
    bool chunked;
    bool armed;
    Line line;
    PyObject *full;
    PyObject *gathered;
    PyObject *timed;
    PyObject *notify; /* None: the collectors are all that observes */
    PyObject *cut;    /* a Cut or a Strip; None: any whole events, as they are */
    bool strips;      /* it is a Strip */
    Collectors collectors;
    Sent made;
    PyObject *recent[RECENT]; /* a ring */
    Packed last;              /* what was sent last; without bytes: nothing */
    Py_ssize_t reads;
    Py_ssize_t sent;
    double heard_at;
} Tap;

/* As Python's time.monotonic() */
static double now(void)
{
#ifdef __APPLE__
    return (double)clock_gettime_nsec_np(CLOCK_UPTIME_RAW) * 1e-9;
#else
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
#endif
}

/* Count the events of a text that ends with one, as gateway.pipeline.readers.StreamReader does; 0 if
 * it ends with another thing, or with the event that ends a stream. */
static Py_ssize_t whole_events(const char *text, Py_ssize_t size)
{
    const char *at = text, *end = text + size;
    if (size < LEAST_READ || end[-1] != '\n' || end[-2] != '\n')
        return 0;
    for (int behind = 0; behind <= BEHIND_DONE; behind++)
        if (memcmp(end - behind - DONE_SIZE, DONE, DONE_SIZE) == 0)
            return 0;
    Py_ssize_t count = 0;
    while (at < end && (at = memchr(at, '\n', (size_t)(end - at))) != NULL) {
        if (++at < end && *at == '\n') {
            count++;
            at++;
        }
    }
    return count;
}

static void set(PyObject **place, PyObject *value)
{
    PyObject *before = *place;
    *place = Py_NewRef(value);
    Py_XDECREF(before);
}

static void remember(Tap *tap, PyObject *chunk, const Packed *sent, double time)
{
    set(&tap->recent[tap->reads % RECENT], chunk);
    tap->reads++;
    tap->heard_at = time;
    if (sent->bytes == NULL)
        return;
    PyObject *before = tap->last.bytes;
    tap->last = *sent;
    Py_INCREF(sent->bytes);
    Py_XDECREF(before);
    tap->sent += sent->size;
}

static bool show(Tap *tap, PyObject *chunk, Py_ssize_t events, double time)
{
    if (tap->notify == Py_None)
        return collectors_add(&tap->collectors, chunk, events, time);
    PyObject *told = PyObject_CallFunctionObjArgs(tap->notify, chunk, NULL);
    Py_XDECREF(told);
    return told != NULL;
}

static bool send(Tap *tap, const Packed *sent)
{
    int goes_on = sent->bytes ? line_send(&tap->line, sent) : 1;
    if (goes_on != 0)
        return goes_on > 0;
    PyObject *told = PyObject_CallNoArgs(tap->full);
    Py_XDECREF(told);
    return told != NULL;
}

/* Find the events that a text consists of: their number, 0 if they are left to Python, or -1 with an
 * exception set. What is to be sent is in `made`, unless it is the text `as_it_is`. */
static Py_ssize_t find_events(Tap *tap, const char *text, Py_ssize_t size, bool *as_it_is)
{
    *as_it_is = false;
    if (tap->strips)
        return strip_events((Strip *)tap->cut, text, size, &tap->made);
    *as_it_is = tap->cut == Py_None || ((const Cut *)tap->cut)->through;
    if (tap->cut == Py_None)
        return whole_events(text, size);
    return cut_events((const Cut *)tap->cut, text, size, &tap->made);
}

/* Carry the events of `chunk`: 1, or 0 if they are left to Python; -1 with an exception set. */
static int carry(Tap *tap, PyObject *chunk)
{
    const char *text = PyBytes_AsString(chunk);
    Py_ssize_t size = PyBytes_Size(chunk);
    if (size < LEAST_READ || !collectors_have_room(&tap->collectors, size))
        return 0;
    bool as_it_is;
    Py_ssize_t events = find_events(tap, text, size, &as_it_is);
    if (events <= 0)
        return (int)events;
    Packed sent = {0};
    if (as_it_is ? !line_pack(&tap->line, text, size, chunk, &sent)
                 : tap->made.size > 0 &&
                       !line_pack(&tap->line, tap->made.data, tap->made.size, NULL, &sent))
        return -1;
    double time = now();
    remember(tap, chunk, &sent, time);
    bool done = show(tap, chunk, events, time) && send(tap, &sent);
    Py_XDECREF(sent.bytes);
    return done ? 1 : -1;
}

static PyObject *tap_take(Tap *tap, PyObject *data)
{
    if (!tap->armed || !PyBytes_CheckExact(data))
        Py_RETURN_FALSE;
    PyObject *chunk = tap->chunked ? joined_chunks(PyBytes_AsString(data), PyBytes_Size(data))
                                   : Py_NewRef(data);
    if (chunk == NULL) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_FALSE;
    }
    int carried = carry(tap, chunk);
    Py_DECREF(chunk);
    return carried < 0 ? NULL : PyBool_FromLong(carried);
}

static PyObject *tap_arm(Tap *tap, PyObject *cut)
{
    StreamState *state = stream_state(Py_TYPE((PyObject *)tap));
    tap->armed = false;
    if (state == NULL)
        return NULL;
    PyObject *type = (PyObject *)Py_TYPE(cut);
    if (cut != Py_None && type != state->cut && type != state->strip) {
        PyErr_SetString(PyExc_TypeError, "arm() takes a Cut, a Strip or None");
        return NULL;
    }
    set(&tap->cut, cut);
    tap->strips = type == state->strip;
    if (tap->line.way == NULL) { /* the garbage collector has cleared it */
        PyErr_SetString(PyExc_RuntimeError, "this tap is gone");
        return NULL;
    }
    if (tap->notify == Py_None && !collectors_open(&tap->collectors, tap->gathered, tap->timed))
        return NULL;
    tap->armed = true;
    Py_RETURN_NONE;
}

/* The latest reads, the oldest first; the tap keeps none of them. */
static PyObject *take_recent(Tap *tap)
{
    Py_ssize_t count = tap->reads < RECENT ? tap->reads : RECENT;
    PyObject *found = PyTuple_New(count);
    for (Py_ssize_t place = 0; found != NULL && place < count; place++) {
        PyObject **one = &tap->recent[(tap->reads - count + place) % RECENT];
        PyTuple_SetItem(found, place, *one);
        *one = NULL;
    }
    return found;
}

static PyObject *take_last(Tap *tap)
{
    Packed last = tap->last;
    tap->last = (Packed){0};
    if (last.bytes == NULL)
        return PyBytes_FromStringAndSize(NULL, 0);
    PyObject *text = PyBytes_FromStringAndSize(PyBytes_AsString(last.bytes) + last.start, last.size);
    Py_DECREF(last.bytes);
    return text;
}

static PyObject *tap_settle(Tap *tap, PyObject *Py_UNUSED(nothing))
{
    tap->armed = false;
    if (tap->reads == 0) {
        collectors_close(&tap->collectors);
        Py_RETURN_NONE;
    }
    PyObject *recent = take_recent(tap);
    PyObject *last = take_last(tap);
    Py_ssize_t sent = tap->sent;
    tap->reads = tap->sent = 0;
    bool done = collectors_settle(&tap->collectors);
    if (recent != NULL && last != NULL && done)
        return Py_BuildValue("(nNN)", sent, last, recent);
    Py_XDECREF(recent);
    Py_XDECREF(last);
    return NULL;
}

static PyObject *tap_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *way, *full, *gathered, *timed, *notify, *line;
    int chunked;
    StreamState *state = stream_state(type);
    if (state == NULL || !PyArg_ParseTuple(args, "OOpO!O!OO", &way, &full, &chunked, &PyTuple_Type,
                                           &gathered, &PyTuple_Type, &timed, &notify, &line))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Tap *tap = (Tap *)alloc(type, 0);
    if (tap == NULL)
        return NULL;
    tap->line.names = &state->names;
    if (!line_open(&tap->line, way, line)) {
        Py_DECREF(tap);
        return NULL;
    }
    tap->full = Py_NewRef(full);
    tap->chunked = chunked;
    tap->gathered = Py_NewRef(gathered);
    tap->timed = Py_NewRef(timed);
    tap->notify = Py_NewRef(notify);
    tap->collectors.names = &state->names;
    return (PyObject *)tap;
}

static int tap_traverse(Tap *tap, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)tap));
    Py_VISIT(tap->full);
    Py_VISIT(tap->gathered);
    Py_VISIT(tap->timed);
    Py_VISIT(tap->notify);
    Py_VISIT(tap->cut);
    int found = line_traverse(&tap->line, visit, arg);
    return found ? found : collectors_traverse(&tap->collectors, visit, arg);
}

static int tap_clear(Tap *tap)
{
    tap->armed = false;
    line_clear(&tap->line);
    Py_CLEAR(tap->full);
    Py_CLEAR(tap->gathered);
    Py_CLEAR(tap->timed);
    Py_CLEAR(tap->notify);
    Py_CLEAR(tap->cut);
    Py_CLEAR(tap->last.bytes);
    for (int place = 0; place < RECENT; place++)
        Py_CLEAR(tap->recent[place]);
    collectors_close(&tap->collectors);
    return 0;
}

static void tap_dealloc(Tap *tap)
{
    PyTypeObject *type = Py_TYPE((PyObject *)tap);
    PyObject_GC_UnTrack(tap);
    tap_clear(tap);
    collectors_free(&tap->collectors);
    sent_free(&tap->made);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(tap);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"arm", (PyCFunction)tap_arm, METH_O, NULL},
    {"take", (PyCFunction)tap_take, METH_O, NULL},
    {"settle", (PyCFunction)tap_settle, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"heard_at", T_DOUBLE, offsetof(Tap, heard_at), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Carries the reads of a stream: see gateway/kernel/interface.py."},
    {Py_tp_new, (void *)tap_new},
    {Py_tp_traverse, (void *)tap_traverse},
    {Py_tp_clear, (void *)tap_clear},
    {Py_tp_dealloc, (void *)tap_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

PyType_Spec tap_spec = {
    .name = "gateway.kernel._native.Tap",
    .basicsize = sizeof(Tap),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
