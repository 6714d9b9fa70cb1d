/* The fields of a request's body, for Python: see `Functions.read_fields` in interface.py. */
#include "json/json.h"

#define MAX_FIELDS 128
#define MAX_SHORT 256 /* bytes of a string that Python gets as a text */
#define ITEMS 2       /* of a list whose places are told */

typedef struct {
    size_t start, end;
} Span;

static Span span_from(const uint8_t *from, const Reader *reader, const uint8_t *start)
{
    return (Span){(size_t)(from - start), (size_t)(reader->at - start)};
}

static PyObject *tuple_of(const Span *spans, size_t count)
{
    PyObject *found = PyTuple_New((Py_ssize_t)count * 2);
    for (size_t place = 0; found != NULL && place < count * 2; place++) {
        const Span *span = &spans[place / 2];
        PyObject *number = PyLong_FromSize_t(place % 2 ? span->end : span->start);
        if (number == NULL)
            Py_CLEAR(found);
        else
            PyTuple_SetItem(found, (Py_ssize_t)place, number);
    }
    return found;
}

/* The places of a list and of its first items. */
static PyObject *list_of(Reader *reader, const uint8_t *start)
{
    Span spans[1 + ITEMS];
    size_t count = 1;
    bool first = true, ended;
    const uint8_t *from = reader->at++;
    for (;;) {
        if (!next_item(reader, ']', &first, &ended))
            return NULL;
        if (ended)
            break;
        peek(reader);
        const uint8_t *item = reader->at;
        if (!check_value(reader, 2))
            return NULL;
        if (count <= ITEMS)
            spans[count++] = span_from(item, reader, start);
    }
    spans[0] = span_from(from, reader, start);
    return tuple_of(spans, count);
}

/* A short text without escapes, or an integer that is one in C too; NULL: neither. */
static PyObject *short_of(const uint8_t *from, const Reader *reader)
{
    size_t size = (size_t)(reader->at - from);
    Reader again = {from, reader->at};
    int64_t number;
    if (*from == '"' && size <= MAX_SHORT && memchr(from, '\\', size) == NULL)
        return PyUnicode_FromStringAndSize((const char *)from + 1, (Py_ssize_t)size - 2);
    if ((*from == '-' || is_digit(*from)) && take_integer(&again, &number) && again.at == again.end)
        return PyLong_FromLongLong(number);
    return NULL;
}

/* The value that the reader stands at; NULL if it is not sure, or with an exception set. */
static PyObject *value_of(Reader *reader, const uint8_t *start)
{
    uint8_t kind = peek(reader);
    const uint8_t *from = reader->at;
    if (kind == '[')
        return list_of(reader, start);
    if (!check_value(reader, 1))
        return NULL;
    switch (kind) {
    case 'n': return Py_NewRef(Py_None);
    case 't': return PyBool_FromLong(1);
    case 'f': return PyBool_FromLong(0);
    default: break;
    }
    PyObject *found = short_of(from, reader);
    Span span = span_from(from, reader, start);
    return found != NULL || PyErr_Occurred() ? found : tuple_of(&span, 1);
}

/* Whether a field was added that is the only one of its name. */
static bool add_field(Reader *reader, const uint8_t *start, PyObject *fields, Py_ssize_t count)
{
    Slice name;
    if (!take_key(reader, &name))
        return false;
    PyObject *key = PyUnicode_FromStringAndSize((const char *)name.data, (Py_ssize_t)name.size);
    PyObject *value = key == NULL ? NULL : value_of(reader, start);
    bool added = value != NULL && PyDict_SetItem(fields, key, value) == 0;
    Py_XDECREF(key);
    Py_XDECREF(value);
    return added && PyObject_Size(fields) == count;
}

static bool add_fields(Reader *reader, PyObject *fields)
{
    const uint8_t *start = reader->at;
    bool first = true, ended;
    if (!take_byte(reader, '{'))
        return false;
    for (Py_ssize_t count = 1; count <= MAX_FIELDS + 1; count++) {
        if (!next_item(reader, '}', &first, &ended))
            return false;
        if (ended)
            return at_end(reader);
        if (!add_field(reader, start, fields, count))
            return false;
    }
    return false;
}

static PyObject *read_fields(PyObject *module, PyObject *body)
{
    char *data;
    Py_ssize_t size;
    (void)module;
    if (PyBytes_AsStringAndSize(body, &data, &size) < 0)
        return NULL;
    PyObject *fields = PyDict_New();
    if (fields == NULL)
        return NULL;
    Reader reader = {(const uint8_t *)data, (const uint8_t *)data + size};
    if (add_fields(&reader, fields))
        return fields;
    Py_DECREF(fields);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"read_fields", read_fields, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int request_add(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
