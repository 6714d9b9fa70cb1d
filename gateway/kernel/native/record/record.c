/* From an answer to its record, in one pass without the GIL. */
#include "answer.h"

#include <stdlib.h>

Choice *add_choice(Answer *answer, int32_t index)
{
    if (answer->count == answer->room) {
        size_t room = answer->room ? answer->room * 4 : 1;
        if (answer->count >= MAX_CHOICES)
            return NULL;
        Choice *choices = realloc(answer->choices, room * sizeof *choices);
        if (choices == NULL)
            return NULL;
        answer->choices = choices;
        answer->room = room;
    }
    Choice *choice = &answer->choices[answer->count++];
    memset(choice, 0, sizeof *choice);
    choice->index = index;
    return choice;
}

static void choice_free(Choice *choice)
{
    out_free(&choice->ids);
    out_free(&choice->prompt);
    out_free(&choice->values);
    out_free(&choice->places);
    out_free(&choice->texts);
    out_free(&choice->content);
    out_free(&choice->entry_ids);
    out_free(&choice->offsets);
    out_free(&choice->tops);
    out_free(&choice->prompt_logprobs);
    out_free(&choice->finish);
    out_free(&choice->role);
    calls_free(&choice->tools);
    for (int place = 0; place < 4; place++) {
        out_free(&choice->said[place]);
        out_free(&choice->ends[place]);
    }
}

void answer_free(Answer *answer)
{
    for (size_t place = 0; place < answer->count; place++)
        choice_free(&answer->choices[place]);
    free(answer->choices);
    out_free(&answer->skeleton);
    out_free(&answer->id);
    out_free(&answer->model);
    out_free(&answer->usage);
    out_free(&answer->stamped);
    out_free(&answer->prompt);
    out_free(&answer->prompt_logprobs);
    out_free(&answer->scratch);
    out_free(&answer->pieces);
    out_free(&answer->inner);
    out_free(&answer->work);
}

static PyObject *none(void)
{
    Py_INCREF(Py_None);
    return Py_None;
}

static PyObject *as_bytes(const Out *out)
{
    return PyBytes_FromStringAndSize((const char *)out->data, (Py_ssize_t)out->size);
}

static PyObject *as_text(const Out *out)
{
    return PyUnicode_DecodeUTF8(out->size ? (const char *)out->data : "", (Py_ssize_t)out->size,
                                NULL);
}

static PyObject *as_bytes_or_none(const Out *out)
{
    return out->size ? as_bytes(out) : none();
}

/* The texts as a list of MessagePack. */
static PyObject *packed_texts(const Choice *choice)
{
    size_t count = choice->text_count, size = count < 16 ? 1 : count <= UINT16_MAX ? 3 : 5;
    if (!choice->has_texts)
        return none();
    if (count > UINT32_MAX) {
        PyErr_NoMemory();
        return NULL;
    }
    PyObject *found = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(size + choice->texts.size));
    uint8_t *at = found == NULL ? NULL : (uint8_t *)PyBytes_AsString(found);
    if (at == NULL)
        return found;
    at[0] = (uint8_t)(size == 1 ? 0x90 | count : size == 3 ? 0xDC : 0xDD);
    for (size_t place = 1; place < size; place++)
        at[place] = (uint8_t)(count >> 8 * (size - 1 - place));
    if (choice->texts.size)
        memcpy(at + size, choice->texts.data, choice->texts.size);
    return found;
}

static PyObject *finish_reason(const Choice *choice)
{
    Slice reason = {choice->finish.data, choice->finish.size};
    return reason.size == 0 || slice_is(reason, "null") ? none() : as_text(&choice->finish);
}

static int add_doubt(PyObject *doubts, const char *name)
{
    PyObject *doubt = PyUnicode_FromString(name);
    int failed = doubt == NULL ? -1 : PyList_Append(doubts, doubt);
    Py_XDECREF(doubt);
    return failed;
}

static PyObject *doubts_of(const Choice *choice)
{
    PyObject *doubts = PyList_New(0);
    if (doubts == NULL)
        return NULL;
    if ((choice->counts_differ && add_doubt(doubts, "counts_differ") < 0) ||
        (choice->contradicts && add_doubt(doubts, "message_contradicts") < 0)) {
        Py_DECREF(doubts);
        return NULL;
    }
    return doubts;
}

/* Takes over the references; NULL among them is an error. */
static PyObject *tuple_of(PyObject *const *items, Py_ssize_t count)
{
    PyObject *found = PyTuple_New(count);
    for (Py_ssize_t place = 0; place < count; place++) {
        if (found != NULL && items[place] != NULL) {
            PyTuple_SetItem(found, place, items[place]);
        } else {
            Py_XDECREF(items[place]);
            Py_CLEAR(found);
        }
    }
    return found;
}

static PyObject *part_of(const Choice *choice, PyObject *prompt, const Out *extra)
{
    Py_XINCREF(prompt);
    PyObject *items[] = {
        PyLong_FromLong(choice->index),
        prompt != NULL ? prompt : as_bytes(&choice->prompt),
        as_bytes(&choice->ids),
        as_bytes(&choice->values),
        packed_texts(choice),
        as_bytes(extra),
        finish_reason(choice),
        doubts_of(choice),
        PyBool_FromLong(!choice->invalid),
    };
    return tuple_of(items, sizeof items / sizeof *items);
}

static PyObject *parts_of(const Answer *answer, const Out *extras)
{
    PyObject *parts = PyTuple_New((Py_ssize_t)answer->count);
    PyObject *prompt = answer->chat ? as_bytes(&answer->prompt) : NULL;
    if (parts == NULL || (answer->chat && prompt == NULL)) {
        Py_XDECREF(parts);
        Py_XDECREF(prompt);
        return NULL;
    }
    for (size_t place = 0; place < answer->count; place++) {
        PyObject *part = part_of(&answer->choices[place], prompt, &extras[place]);
        if (part == NULL) {
            Py_CLEAR(parts);
            break;
        }
        PyTuple_SetItem(parts, (Py_ssize_t)place, part);
    }
    Py_XDECREF(prompt);
    return parts;
}

/* A count of tokens, if it is there as a plain number; `*sure` is false if Python has to look. */
static PyObject *count_of(const Out *usage, const char *name, bool *sure)
{
    Slice found = find_key((Slice){usage->data, usage->size}, name);
    Reader reader = {found.data, found.data + found.size};
    int64_t count;
    if (found.size == 0 || slice_is(found, "null"))
        return none();
    if (take_integer(&reader, &count) && reader.at == reader.end && count >= 0 &&
        count < INT64_C(1) << 31)
        return PyLong_FromLongLong(count);
    *sure = false;
    return none();
}

/* The answer as Python wants it: see `Functions.read_answer` in interface.py. */
static PyObject *result_of(const Answer *answer, const Out *extras)
{
    bool sure = true;
    Slice usage = {answer->usage.data, answer->usage.size};
    bool has_count = find_key(usage, "completion_tokens").size > 0;
    PyObject *items[] = {
        as_bytes(&answer->skeleton),
        as_text(&answer->id),
        as_text(&answer->model),
        parts_of(answer, extras),
        as_bytes_or_none(&answer->usage),
        count_of(&answer->usage, "prompt_tokens", &sure),
        count_of(&answer->usage, has_count ? "completion_tokens" : "output_tokens", &sure),
        as_bytes_or_none(&answer->stamped),
        PyBool_FromLong(answer->done),
        PyLong_FromSize_t(answer->events),
        NULL,
    };
    const Py_ssize_t count = sizeof items / sizeof *items;
    items[count - 1] = PyBool_FromLong(sure);
    return tuple_of(items, count);
}

static bool read_all(Answer *answer, Slice body, Out **extras)
{
    if (!(answer->streamed ? read_events : read_plain)(answer, body))
        return false;
    *extras = calloc(answer->count ? answer->count : 1, sizeof **extras);
    if (*extras == NULL)
        return false;
    for (size_t place = 0; place < answer->count; place++)
        if (!write_extra(&answer->choices[place], answer, &(*extras)[place]))
            return false;
    return true;
}

static PyObject *read_answer(PyObject *module, PyObject *arguments)
{
    PyObject *body;
    int chat, streamed;
    char *data;
    Py_ssize_t size;
    Answer answer = {0};
    Out *extras = NULL;
    bool sure;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "Spp:read_answer", &body, &chat, &streamed) ||
        PyBytes_AsStringAndSize(body, &data, &size) < 0)
        return NULL;
    answer.chat = chat;
    answer.streamed = streamed;
    Py_BEGIN_ALLOW_THREADS
    sure = read_all(&answer, (Slice){(const uint8_t *)data, (size_t)size}, &extras);
    Py_END_ALLOW_THREADS
    PyObject *result = sure ? result_of(&answer, extras) : none();
    for (size_t place = 0; extras != NULL && place < answer.count; place++)
        out_free(&extras[place]);
    free(extras);
    answer_free(&answer);
    return result;
}

static PyMethodDef functions[] = {
    {"read_answer", read_answer, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int record_add(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
