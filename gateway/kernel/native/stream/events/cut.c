/* Takes injected fields out of the events of one frame: see cut.h. */
#include "stream/events/cut.h"

#include <string.h>

static const char *take(const char *at, const char *end, PyObject *bytes)
{
    Py_ssize_t size = PyBytes_Size(bytes);
    if (end - at < size || memcmp(at, PyBytes_AsString(bytes), (size_t)size) != 0)
        return NULL;
    return at + size;
}

static Span member(const Span *found, int place)
{
    return place < 0 ? (Span){NULL, NULL} : found[place];
}

/* Whether the choice goes on and has what its engine is known by: as `Frame.strip_one`. */
static bool goes_on(const Cut *cut, const Span *found)
{
    Span reason = member(found, cut->finish_reason);
    if (!is_text(reason, "null"))
        return false;
    return !cut->blanks_logprobs || member(found, cut->logprobs).value != NULL;
}

static bool is_injected(const Cut *cut, int place)
{
    if (place == cut->logprobs)
        return cut->blanks_logprobs;
    return cut->ids && (place == cut->token_ids || place == cut->prompt_token_ids);
}

static bool has_injected(const Cut *cut, const Span *found)
{
    for (int place = 0; place < cut->count; place++)
        if (is_injected(cut, place) && tells(found[place]))
            return true;
    return false;
}

/* Cut one event into `sent`; returns the place after the event, or NULL. */
static const char *cut_event(const Cut *cut, const char *at, const char *end, Sent *sent)
{
    const char *from = at;
    Span found[CHOICE_KEYS] = {{NULL, NULL}};
    at = take(at, end, cut->before);
    if (at != NULL)
        at = read_members(cut->key, cut->count, at, end, found);
    if (at != NULL)
        at = take(at, end, cut->after);
    if (at == NULL || !goes_on(cut, found))
        return NULL;
    if (cut->drop_empty && is_text(member(found, cut->delta), "{}") && has_injected(cut, found))
        return at;
    for (int place = 0; place < cut->count; place++) {
        if (!is_injected(cut, place) || !tells(found[place]))
            continue;
        from = sent_put_null(sent, from, found[place]);
    }
    sent_put(sent, from, at);
    return at;
}

/* Whether the text has a finish reason that is null, and none that is a string. */
static bool is_unfinished(const char *at, const char *end)
{
    static const char NAME[] = "finish_reason\":";
    const Py_ssize_t size = sizeof NAME - 1;
    const char *first = at;
    bool found = false;
    while ((at = memchr(at, 'f', (size_t)(end - at))) != NULL) {
        if (end - at > size && at > first && at[-1] == '"' && memcmp(at, NAME, (size_t)size) == 0) {
            const char *value = at + size;
            if (*value == '"')
                return false;
            found = found || (end - value >= 4 && memcmp(value, "null", 4) == 0);
        }
        at++;
    }
    return found;
}

/* Look at one event that is sent as it is; returns the place after the event, or NULL. */
static const char *pass_event(const Cut *cut, const char *at, const char *end)
{
    const char *line = memchr(at, '\n', (size_t)(end - at));
    if (line == NULL || end - line < 2 || line[1] != '\n')
        return NULL;
    end = line + 2;
    Py_ssize_t before = PyBytes_Size(cut->before), after = PyBytes_Size(cut->after);
    if (end - at < before + after || take(at, end, cut->before) == NULL ||
        take(end - after, end, cut->after) == NULL)
        return NULL;
    if (memchr(at, '\r', (size_t)(end - at)) != NULL || !is_unfinished(at, end))
        return NULL;
    return end;
}

static bool begin(const Cut *cut, Py_ssize_t size, Sent *sent)
{
    sent->size = 0;
    return cut->through || sent_reserve(sent, size_with_nulls(size));
}

static const char *next_event(const Cut *cut, const char *at, const char *end, Sent *sent)
{
    return cut->through ? pass_event(cut, at, end) : cut_event(cut, at, end, sent);
}

Py_ssize_t cut_events(const Cut *cut, const char *text, Py_ssize_t size, Sent *sent)
{
    const char *at = text, *end = text + size;
    Py_ssize_t count = 0;
    if (!begin(cut, size, sent))
        return -1;
    for (; at < end; count++) {
        at = next_event(cut, at, end, sent);
        if (at == NULL)
            return 0;
    }
    return count;
}

/* The same for the events that `text` begins with: returns how many bytes they take. */
static Py_ssize_t cut_leading(const Cut *cut, const char *text, Py_ssize_t size, Sent *sent)
{
    const char *at = text, *next = text, *end = text + size;
    if (!begin(cut, size, sent))
        return -1;
    while (next != NULL) {
        at = next;
        next = at < end ? next_event(cut, at, end, sent) : NULL;
    }
    return at - text;
}

static int place_of(const Cut *cut, const char *name)
{
    for (int place = 0; place < cut->count; place++)
        if ((size_t)cut->key[place].size == strlen(name) &&
            memcmp(cut->key[place].text, name, strlen(name)) == 0)
            return place;
    return -1;
}

static bool read_keys(Cut *cut)
{
    Py_ssize_t count = PyTuple_Size(cut->keys);
    if (count > CHOICE_KEYS) {
        PyErr_SetString(PyExc_ValueError, "a choice has too many keys");
        return false;
    }
    for (Py_ssize_t place = 0; place < count; place++) {
        char *text;
        Py_ssize_t size;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(cut->keys, place), &text, &size) < 0)
            return false;
        cut->key[place] = (Key){text, size};
    }
    cut->count = (int)count;
    cut->delta = place_of(cut, "delta");
    cut->finish_reason = place_of(cut, "finish_reason");
    cut->logprobs = place_of(cut, "logprobs");
    cut->token_ids = place_of(cut, "token_ids");
    cut->prompt_token_ids = place_of(cut, "prompt_token_ids");
    return true;
}

static PyObject *cut_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *before, *after, *keys;
    int ids, logprobs, drop_empty, through;
    if (!PyArg_ParseTuple(args, "SSO!pppp", &before, &after, &PyTuple_Type, &keys, &ids, &logprobs,
                          &drop_empty, &through))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Cut *cut = (Cut *)alloc(type, 0);
    if (cut == NULL)
        return NULL;
    cut->before = Py_NewRef(before);
    cut->after = Py_NewRef(after);
    cut->keys = Py_NewRef(keys);
    cut->ids = ids;
    cut->blanks_logprobs = logprobs;
    cut->drop_empty = drop_empty;
    cut->through = through;
    if (!read_keys(cut)) {
        Py_DECREF(cut);
        return NULL;
    }
    return (PyObject *)cut;
}

static void cut_dealloc(Cut *cut)
{
    PyTypeObject *type = Py_TYPE((PyObject *)cut);
    Py_XDECREF(cut->before);
    Py_XDECREF(cut->after);
    Py_XDECREF(cut->keys);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(cut);
    Py_DECREF(type);
}

static PyObject *cut_call(Cut *cut, PyObject *text)
{
    if (!PyBytes_CheckExact(text))
        Py_RETURN_NONE;
    Sent made = {0};
    Py_ssize_t count = cut_events(cut, PyBytes_AsString(text), PyBytes_Size(text), &made);
    PyObject *sent = NULL;
    if (count == 0)
        sent = Py_NewRef(Py_None);
    else if (count > 0)
        sent = cut->through ? Py_NewRef(text) : PyBytes_FromStringAndSize(made.data, made.size);
    sent_free(&made);
    return sent;
}

static PyObject *cut_run(Cut *cut, PyObject *text)
{
    if (!PyBytes_CheckExact(text))
        Py_RETURN_NONE;
    Sent made = {0};
    Py_ssize_t taken = cut_leading(cut, PyBytes_AsString(text), PyBytes_Size(text), &made);
    PyObject *sent = NULL;
    if (taken == 0)
        sent = Py_NewRef(Py_None);
    else if (taken > 0 && cut->through)
        sent = Py_BuildValue("(y#n)", PyBytes_AsString(text), taken, taken);
    else if (taken > 0)
        sent = Py_BuildValue("(y#n)", made.data, made.size, taken);
    sent_free(&made);
    return sent;
}

static PyMethodDef methods[] = {
    {"strip_run", (PyCFunction)cut_run, METH_O,
     "Strip the leading events of `text`; return the result and the number of bytes consumed."},
    {"strip", (PyCFunction)cut_call, METH_O,
     "Strip the events that `text` consists of; None: they are left to the Python code."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Strips the events of one frame: see gateway/kernel/interface.py."},
    {Py_tp_new, (void *)cut_new},
    {Py_tp_dealloc, (void *)cut_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec cut_spec = {
    .name = "gateway.kernel._native.Cut",
    .basicsize = sizeof(Cut),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
