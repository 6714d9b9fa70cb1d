/* Takes injected fields out of a whole plain answer: what `gateway.wire.injection.Stripper.plain` is
 * in Python.
 *
 * The answer may be only roughly JSON. Text whose members end in any other way is left, and so is each
 * answer of which the fields might have to go rather than become null: see `stripping/unasked.py`. */
#include "members.h"

/* What is to be taken out, and the answer without what has been taken out up to `from`. */
typedef struct {
    bool ids, logprobs;
    const uint8_t *from;
    Out out;
} Strip;

/* Fields of an answer or of a choice that decide, as bits. */
enum { CHOICES = 1, PROMPT_IDS = 2, IDS = 4, LOGPROBS = 8, SAID = 16, FINISHED = 32, HOME = 64 };

static int field_of_answer(Slice key)
{
    if (slice_is(key, "choices"))
        return CHOICES;
    return slice_is(key, "prompt_token_ids") ? PROMPT_IDS : 0;
}

static int field_of_choice(Slice key)
{
    if (slice_is(key, "message") || slice_is(key, "delta"))
        return SAID;
    if (slice_is(key, "logprobs"))
        return LOGPROBS;
    if (slice_is(key, "finish_reason"))
        return FINISHED;
    if (slice_is(key, "token_ids"))
        return IDS;
    if (slice_is(key, "prompt_token_ids"))
        return PROMPT_IDS;
    return slice_is(key, "provider_specific_fields") ? HOME : 0;
}

/* Has null in place of a value from `value` on to where the reader stands. */
static bool blank(Strip *strip, const uint8_t *value, const uint8_t *end)
{
    if (slice_is(((Slice){value, (size_t)(end - value)}), "null"))
        return true;
    if (!out_put(&strip->out, strip->from, (size_t)(value - strip->from)) ||
        !out_text(&strip->out, "null"))
        return false;
    strip->from = end;
    return true;
}

/* Whether the field, after those of `seen`, may have its place and become null. */
static bool is_usual(int field, int seen)
{
    if (field & HOME || field & seen & (CHOICES | PROMPT_IDS | IDS | LOGPROBS))
        return false;
    return !(field & LOGPROBS && seen & SAID && seen & FINISHED);
}

static bool strip_field(Strip *strip, int field, Reader *reader)
{
    bool injected = field & LOGPROBS ? strip->logprobs : field & (PROMPT_IDS | IDS) && strip->ids;
    const uint8_t *value = reader->at;
    return pass_value(reader) && (!injected || blank(strip, value, reader->at));
}

static bool strip_choice(Strip *strip, Reader *reader)
{
    bool first = true, ended;
    int seen = 0;
    Slice key;
    if (!take_byte(reader, '{'))
        return false;
    while (next_item(reader, '}', &first, &ended)) {
        if (ended)
            return true;
        if (!pass_key(reader, &key))
            return false;
        int field = field_of_choice(key);
        if (!is_usual(field, seen) || !strip_field(strip, field, reader))
            return false;
        seen |= field;
    }
    return false;
}

static bool strip_choices(Strip *strip, Reader *reader)
{
    bool first = true, ended;
    if (!take_byte(reader, '['))
        return false;
    while (next_item(reader, ']', &first, &ended)) {
        if (ended)
            return true;
        if (!strip_choice(strip, reader))
            return false;
    }
    return false;
}

static bool strip_all(Strip *strip, Reader *reader)
{
    bool first = true, ended;
    int seen = 0;
    Slice key;
    if (!take_byte(reader, '{'))
        return false;
    while (next_item(reader, '}', &first, &ended)) {
        if (ended)
            return at_end(reader);
        if (!pass_key(reader, &key))
            return false;
        int field = field_of_answer(key);
        if (!is_usual(field, seen))
            return false;
        if (!(field == CHOICES ? strip_choices(strip, reader) : strip_field(strip, field, reader)))
            return false;
        seen |= field;
    }
    return false;
}

/* The body itself if there was nothing in it. */
static PyObject *result_of(Strip *strip, PyObject *body, const uint8_t *end)
{
    if (strip->out.size == 0)
        return Py_NewRef(body);
    if (!out_put(&strip->out, strip->from, (size_t)(end - strip->from)))
        return Py_NewRef(Py_None);
    return PyBytes_FromStringAndSize((const char *)strip->out.data, (Py_ssize_t)strip->out.size);
}

static PyObject *strip_answer(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *body;
    int ids, logprobs;
    char *data;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(arguments, "Spp:strip_answer", &body, &ids, &logprobs) ||
        PyBytes_AsStringAndSize(body, &data, &size) < 0)
        return NULL;
    const uint8_t *text = (const uint8_t *)data;
    Strip strip = {ids, logprobs, text, {0}};
    Reader reader = {text, text + size};
    PyObject *result = strip_all(&strip, &reader) ? result_of(&strip, body, reader.end)
                                                  : Py_NewRef(Py_None);
    out_free(&strip.out);
    return result;
}

static PyMethodDef functions[] = {
    {"strip_answer", strip_answer, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int strip_add(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
