/* The tokens that a response reports of itself, if it does so in the usual form.
 *
 * As gateway/wire/reported/usage.py reads them, which has whatever is left here. */
#include "fields.h"
#include "json/raw.h"

#define USAGE "\"usage\":"
#define WHOLE_BELOW 1000 /* as DECODE_WHOLE_BELOW in Python */

typedef struct {
    int32_t prompt, completion, cached, reasoning;
} Tokens;

/* A usage with other fields is left: they may have counts, too. Nobody reads the last of these. */
enum { PROMPT, COMPLETION, TOTAL, OF_PROMPT, OF_COMPLETION, APART };

static const Field of_usage[] = {
    FIELD("prompt_tokens"),
    FIELD("completion_tokens"),
    FIELD("total_tokens"),
    FIELD("prompt_tokens_details"),
    FIELD("completion_tokens_details"),
    FIELD("reasoning_tokens"),
};

static bool pass_raw(Reader *reader)
{
    skip_space(reader);
    const char *after = skip_raw((const char *)reader->at, (const char *)reader->end, RAW_DEPTH);
    if (after == NULL)
        return false;
    reader->at = (const uint8_t *)after;
    return true;
}

/* 0 for null. */
static bool take_count(Reader *reader, int32_t *count)
{
    *count = 0;
    return peek(reader) == 'n' ? take_null(reader) : take_id(reader, count);
}

/* A key may stand twice in details: the latter counts. */
static bool read_details(Reader *reader, int32_t *cached, int32_t *reasoning)
{
    bool first = true, ended;
    Slice key;
    if (peek(reader) == 'n')
        return take_null(reader);
    if (!take_byte(reader, '{'))
        return false;
    while (next_item(reader, '}', &first, &ended)) {
        if (ended)
            return true;
        if (!take_key(reader, &key))
            return false;
        bool done = slice_is(key, "cached_tokens")      ? take_count(reader, cached)
                    : slice_is(key, "reasoning_tokens") ? take_count(reader, reasoning)
                                                        : pass_raw(reader);
        if (!done)
            return false;
    }
    return false;
}

static bool read_field(Reader *reader, int field, Tokens *tokens)
{
    int32_t other = 0;
    switch (field) {
    case PROMPT:
        return take_count(reader, &tokens->prompt);
    case COMPLETION:
        return take_count(reader, &tokens->completion);
    case TOTAL:
        return take_count(reader, &other);
    case OF_PROMPT:
        return read_details(reader, &tokens->cached, &other);
    case OF_COMPLETION:
        return read_details(reader, &other, &tokens->reasoning);
    default:
        return pass_raw(reader);
    }
}

static bool read_tokens(Reader *reader, Tokens *tokens)
{
    Fields fields = FIELDS(of_usage);
    int field;
    if (!take_byte(reader, '{'))
        return false;
    while ((field = next_field(&fields, reader)) >= 0)
        if (!read_field(reader, field, tokens))
            return false;
    return field == NO_FIELD;
}

/* The members of the response; the reader stands after its opening bracket. */
static bool read_response(Reader *reader, Tokens *tokens)
{
    bool first = true, ended, found = false;
    Slice key;
    while (next_item(reader, '}', &first, &ended)) {
        if (ended)
            return found && at_end(reader);
        if (!take_key(reader, &key))
            return false;
        if (slice_is(key, "timings")) /* llama.cpp's, with the cached tokens */
            return false;
        if (!slice_is(key, "usage")) {
            if (!pass_raw(reader))
                return false;
        } else if (found || !read_tokens(reader, tokens)) {
            return false;
        } else {
            found = true;
        }
    }
    return false;
}

/* The place of the last usage; -1 if there is none. */
static Py_ssize_t find_usage(const char *text, Py_ssize_t size)
{
    const Py_ssize_t length = sizeof(USAGE) - 1;
    Py_ssize_t at = size - length;
    while (at >= 0 && (text[at] != '"' || memcmp(text + at, USAGE, (size_t)length) != 0))
        at--;
    return at >= 0 ? at : -1;
}

static bool is_certain(const Tokens *tokens)
{
    return tokens->prompt > 0 && tokens->completion > 0 && tokens->cached <= tokens->prompt &&
           tokens->reasoning <= tokens->completion;
}

static PyObject *read_usage(PyObject *Py_UNUSED(module), PyObject *body)
{
    char *text;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(body, &text, &size) < 0)
        return NULL;
    Py_ssize_t from = find_usage(text, size);
    if (from < 0)
        Py_RETURN_NONE;
    bool whole = from <= WHOLE_BELOW;
    Reader reader = {(const uint8_t *)text + (whole ? 0 : from), (const uint8_t *)text + size};
    Tokens tokens = {0};
    if ((whole && !take_byte(&reader, '{')) || !read_response(&reader, &tokens) ||
        !is_certain(&tokens))
        Py_RETURN_NONE;
    return Py_BuildValue("(iiii)", tokens.prompt, tokens.completion, tokens.cached,
                         tokens.reasoning);
}

static PyMethodDef functions[] = {
    {"read_usage", read_usage, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int usage_add(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
