/* Strips the events of one stream: see strip.h. */
#include "stream/events/strip.h"

#include <string.h>

#define ADDED ",\"system_fingerprint\":"

/* What a read has done so far. */
typedef struct {
    const char *held; /* NULL: nothing is held */
    const char *held_end;
    bool ended;
    Py_ssize_t events;
} Progress;

/* Whether the event tells nothing new of its engine: `is_usual` in exact_event.py. */
static bool is_usual(const Strip *strip, const ExactEvent *event)
{
    Span reason = event->choice[FINISH_REASON];
    if (reason.value == NULL)
        return !(strip->ids || strip->logprobs);
    if (strip->logprobs && event->choice[LOGPROBS].value == NULL)
        return false;
    if (*reason.value == '"')
        return !is_text(reason, "\"\"") && !is_text(reason, "\"null\"");
    return is_text(reason, "null");
}

static bool has_injected(const Strip *strip, const ExactEvent *event)
{
    if (strip->logprobs && tells(event->choice[LOGPROBS]))
        return true;
    return strip->ids &&
           (tells(event->of[PROMPT_TOKEN_IDS]) || tells(event->choice[CHOICE_PROMPT_TOKEN_IDS]) ||
            tells(event->choice[TOKEN_IDS]));
}

static const char *put_null(Sent *sent, const char *from, bool injected, Span span)
{
    return injected && tells(span) ? sent_put_null(sent, from, span) : from;
}

static void put_text(Sent *sent, const char *text)
{
    sent_put(sent, text, text + strlen(text));
}

/* Send an event with null for what was injected, and with `fingerprint` if it has none of its own. */
static void put_event(const Strip *strip, const ExactEvent *event, Span fingerprint, Sent *sent)
{
    const char *from = event->start;
    Span own = event->of[SYSTEM_FINGERPRINT];
    from = put_null(sent, from, strip->logprobs, event->choice[LOGPROBS]);
    from = put_null(sent, from, strip->ids, event->choice[CHOICE_PROMPT_TOKEN_IDS]);
    from = put_null(sent, from, strip->ids, event->choice[TOKEN_IDS]);
    from = put_null(sent, from, strip->ids, event->of[PROMPT_TOKEN_IDS]);
    if (tells(fingerprint) && !tells(own)) {
        const char *place = own.value ? own.value : event->end - strlen("}\n\n");
        sent_put(sent, from, place);
        if (own.value == NULL)
            put_text(sent, ADDED);
        sent_put(sent, fingerprint.value, fingerprint.end);
        from = own.value ? own.end : place;
    }
    sent_put(sent, from, event->end);
}

/* Send the event that is held, with what the event of the usage tells beside it. */
static bool release(const Strip *strip, Progress *progress, const ExactEvent *usage, Sent *sent)
{
    ExactEvent held;
    if (progress->held == NULL)
        return true;
    if (read_exact(progress->held, progress->held_end, &held) == NULL)
        return false; /* never: it was read before */
    put_event(strip, &held, usage->of[SYSTEM_FINGERPRINT], sent);
    progress->held = NULL;
    return true;
}

static bool take_choiceless(const Strip *strip, Progress *progress, const ExactEvent *event,
                            Sent *sent)
{
    const Span *of = event->of;
    if (!strip->usage) {
        if (strip->ids && tells(of[PROMPT_TOKEN_IDS]))
            return false;
        sent_put(sent, event->start, event->end);
        return true;
    }
    if (!tells(of[USAGE]) || tells(of[PROMPT_TOKEN_IDS]) || tells(of[PROMPT_TEXT]))
        return false;
    return release(strip, progress, event, sent);
}

static bool take_choice(const Strip *strip, Progress *progress, const ExactEvent *event, Sent *sent)
{
    if (progress->held != NULL || (strip->usage && tells(event->of[USAGE])) ||
        !is_usual(strip, event))
        return false;
    bool finishes = tells(event->choice[FINISH_REASON]);
    if (strip->drop_empty && !finishes && is_text(event->choice[DELTA], "{}") &&
        has_injected(strip, event))
        return true;
    if (finishes && strip->usage) {
        progress->held = event->start;
        progress->held_end = event->end;
        progress->ended = true;
        return true;
    }
    put_event(strip, event, (Span){NULL, NULL}, sent);
    return true;
}

/* Read an event, most of which have the same bytes around their choice. */
static bool read_next(Strip *strip, const char *at, const char *end, ExactEvent *event)
{
    if (read_alike(&strip->around, at, end, event) != NULL)
        return true;
    if (read_exact(at, end, event) == NULL)
        return false;
    if (event->has_choice && !tells(event->of[USAGE]) && !tells(event->of[PROMPT_TOKEN_IDS]))
        around_learn(&strip->around, event);
    return true;
}

/* Strip the events that `text` begins with; returns the place after them, or NULL with an exception. */
static const char *strip_leading(Strip *strip, const char *text, const char *end,
                                 Progress *progress, Sent *sent)
{
    const char *at = text;
    Py_ssize_t held = strip->held ? PyBytes_Size(strip->held) : 0;
    ExactEvent event;
    *progress = (Progress){0};
    if (held > 0) {
        progress->held = PyBytes_AsString(strip->held);
        progress->held_end = progress->held + held;
    }
    /* The event of a usage is not sent: it has more bytes than the one before gets of it. */
    if (!sent_reserve(sent, size_with_nulls(held + end - text)))
        return NULL;
    while (at < end && read_next(strip, at, end, &event)) {
        bool taken = event.has_choice ? take_choice(strip, progress, &event, sent)
                                      : take_choiceless(strip, progress, &event, sent);
        if (!taken)
            break;
        at = event.end;
        progress->events++;
    }
    return at;
}

/* Keep what a read has done; false with an exception set. */
static bool keep(Strip *strip, const Progress *progress)
{
    PyObject *before = strip->held, *now = before;
    if (progress->held == NULL)
        now = NULL;
    else if (before == NULL || progress->held != PyBytes_AsString(before)) {
        now = PyBytes_FromStringAndSize(progress->held, progress->held_end - progress->held);
        if (now == NULL)
            return false;
    }
    strip->held = now;
    strip->ended = strip->ended || progress->ended;
    if (now != before)
        Py_XDECREF(before);
    return true;
}

Py_ssize_t strip_events(Strip *strip, const char *text, Py_ssize_t size, Sent *sent)
{
    Progress progress;
    const char *at = strip_leading(strip, text, text + size, &progress, sent);
    if (at == NULL)
        return -1;
    if (at != text + size)
        return 0;
    return keep(strip, &progress) ? progress.events : -1;
}

static PyObject *strip_run(Strip *strip, PyObject *text)
{
    if (!PyBytes_CheckExact(text))
        Py_RETURN_NONE;
    Sent sent = {0};
    Progress progress;
    PyObject *result = NULL;
    const char *start = PyBytes_AsString(text);
    const char *at = strip_leading(strip, start, start + PyBytes_Size(text), &progress, &sent);
    if (at == start)
        result = Py_NewRef(Py_None);
    else if (at != NULL && keep(strip, &progress))
        result = Py_BuildValue("(y#n)", sent.data, sent.size, (Py_ssize_t)(at - start));
    sent_free(&sent);
    return result;
}

static PyObject *hand_back(Strip *strip, PyObject *Py_UNUSED(nothing))
{
    PyObject *held = strip->held;
    bool ended = strip->ended;
    strip->held = NULL;
    strip->ended = false;
    if (held != NULL)
        return held;
    return ended ? PyBytes_FromStringAndSize(NULL, 0) : Py_NewRef(Py_None);
}

static PyObject *strip_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    int ids, logprobs, usage, drop_empty;
    if (!PyArg_ParseTuple(args, "pppp", &ids, &logprobs, &usage, &drop_empty))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Strip *strip = (Strip *)alloc(type, 0);
    if (strip == NULL)
        return NULL;
    strip->ids = ids;
    strip->logprobs = logprobs;
    strip->usage = usage;
    strip->drop_empty = drop_empty;
    return (PyObject *)strip;
}

static void strip_dealloc(Strip *strip)
{
    PyTypeObject *type = Py_TYPE((PyObject *)strip);
    Py_XDECREF(strip->held);
    around_free(&strip->around);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(strip);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"strip_run", (PyCFunction)strip_run, METH_O, NULL},
    {"hand_back", (PyCFunction)hand_back, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Strips the events of one stream: see gateway/kernel/interface.py."},
    {Py_tp_new, (void *)strip_new},
    {Py_tp_dealloc, (void *)strip_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec strip_spec = {
    .name = "gateway.kernel._native.Strip",
    .basicsize = sizeof(Strip),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
