/* Takes injected fields out of the events of one frame: see cut.h. */
#include "cut.h"
#include "json/raw.h"

#include <string.h>

#define NULL_TEXT "null"
#define NULL_SIZE 4

/* A member with an injected field takes at least as many bytes as `"logprobs":0`. */
#define LEAST_MEMBER 12

/* One member of a choice: where its value begins and ends. */
typedef struct {
    const char *value;
    const char *end;
} Span;

static bool is_null(Span span)
{
    return span.end - span.value == NULL_SIZE && memcmp(span.value, NULL_TEXT, NULL_SIZE) == 0;
}

static const char *take(const char *at, const char *end, PyObject *bytes)
{
    Py_ssize_t size = PyBytes_Size(bytes);
    if (end - at < size || memcmp(at, PyBytes_AsString(bytes), (size_t)size) != 0)
        return NULL;
    return at + size;
}

static bool reserve(Sent *sent, Py_ssize_t size)
{
    if (sent->room >= size)
        return true;
    char *more = PyMem_Realloc(sent->data, (size_t)size);
    if (more == NULL) {
        PyErr_NoMemory();
        return false;
    }
    sent->data = more;
    sent->room = size;
    return true;
}

void sent_free(Sent *sent)
{
    PyMem_Free(sent->data);
    *sent = (Sent){0};
}

static void put(Sent *sent, const char *from, const char *to)
{
    size_t size = (size_t)(to - from);
    if (size > (size_t)(sent->room - sent->size))
        size = (size_t)(sent->room - sent->size); /* never: see `cut_events` */
    if (size > 0)
        memcpy(sent->data + sent->size, from, size);
    sent->size += (Py_ssize_t)size;
}

/* The place of the key that `at` begins with, after its quotation mark, from `place` on; else -1. */
static int find_key(const Cut *cut, int place, const char *at, const char *end)
{
    for (; place < cut->count; place++) {
        Key key = cut->key[place];
        if (end - at >= key.size + 2 && at[key.size] == '"' && at[key.size + 1] == ':' &&
            memcmp(at, key.text, (size_t)key.size) == 0)
            return place;
    }
    return -1;
}

/* Find the members of the choice at `at`: known keys, each at most once, in order, without space.
 * Returns the place after the choice, or NULL. `found` has CHOICE_KEYS elements, all of them empty. */
static const char *read_choice(const Cut *cut, const char *at, const char *end, Span *found)
{
    int place = 0;
    if (at == end || *at++ != '{')
        return NULL;
    while (at < end && *at++ == '"') {
        place = find_key(cut, place, at, end);
        if (place < 0)
            return NULL;
        at += cut->key[place].size + 2;
        found[place].value = at;
        at = skip_raw(at, end, RAW_DEPTH);
        if (at == NULL || at == end)
            return NULL;
        found[place].end = at;
        place++;
        if (*at == '}')
            return at + 1;
        if (*at++ != ',')
            return NULL;
    }
    return NULL;
}

static Span member(const Span *found, int place)
{
    return place < 0 ? (Span){NULL, NULL} : found[place];
}

static bool tells(Span span)
{
    return span.value != NULL && !is_null(span);
}

static bool is_empty_object(Span span)
{
    return span.value != NULL && span.end - span.value == 2 && memcmp(span.value, "{}", 2) == 0;
}

/* Whether the choice goes on and has what its engine is known by: as `Frame.strip_one`. */
static bool goes_on(const Cut *cut, const Span *found)
{
    Span reason = member(found, cut->finish_reason);
    if (reason.value == NULL || !is_null(reason))
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
        at = read_choice(cut, at, end, found);
    if (at != NULL)
        at = take(at, end, cut->after);
    if (at == NULL || !goes_on(cut, found))
        return NULL;
    if (cut->drop_empty && is_empty_object(member(found, cut->delta)) && has_injected(cut, found))
        return at;
    for (int place = 0; place < cut->count; place++) {
        if (!is_injected(cut, place) || !tells(found[place]))
            continue;
        put(sent, from, found[place].value);
        put(sent, NULL_TEXT, NULL_TEXT + NULL_SIZE);
        from = found[place].end;
    }
    put(sent, from, at);
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
            found = found || (end - value >= NULL_SIZE && memcmp(value, NULL_TEXT, NULL_SIZE) == 0);
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
    return cut->through ||
           reserve(sent, size + size / LEAST_MEMBER * (NULL_SIZE - 1) + NULL_SIZE);
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
