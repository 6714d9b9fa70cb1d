/* Reads whole messages of HTTP/1.1 that are as most are, and writes the lines of heads. */
#include "http/head.h"

#include <string.h>

#define MAX_WRITTEN 128

/* What a function returns that has no result: an exception, or None for an input that is left. */
static PyObject *left(void)
{
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static bool is_bytes(PyObject *const *arguments, Py_ssize_t place, Rest *rest)
{
    Py_ssize_t size;
    char *text;
    if (!PyBytes_CheckExact(arguments[place]))
        return false;
    if (PyBytes_AsStringAndSize(arguments[place], &text, &size) < 0)
        return false;
    rest->at = text;
    rest->end = text + size;
    return true;
}

static bool has(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given != wanted)
        PyErr_Format(PyExc_TypeError, "%zd arguments were expected", wanted);
    return given == wanted;
}

/* Whether the head, which has begun at `from` and ends at `rest`, is within the limits. */
static bool is_short(const char *from, Rest rest, Framing framing, PyObject *bytes, PyObject *lines)
{
    Py_ssize_t most = PyLong_AsSsize_t(bytes);
    Py_ssize_t most_lines = lines == NULL ? PY_SSIZE_T_MAX : PyLong_AsSsize_t(lines);
    return !PyErr_Occurred() && rest.at - from <= most && framing.lines <= most_lines;
}

/* `(method, path, query)` of the first line, NULL without an exception if it is left. */
static PyObject *read_target(Rest *rest)
{
    const char *method = rest->at, *path, *query;
    if (!pass_text(rest, "POST ", 5) && !pass_text(rest, "GET ", 4))
        return NULL;
    Py_ssize_t method_size = rest->at - method - 1;
    path = rest->at;
    if (path == rest->end || *path != '/')
        return NULL;
    while (rest->at < rest->end && in_target(*rest->at) && *rest->at != '?')
        rest->at++;
    Py_ssize_t path_size = rest->at - path;
    query = rest->at;
    if (rest->at < rest->end && *rest->at == '?')
        query++;
    while (rest->at < rest->end && in_target(*rest->at))
        rest->at++;
    Py_ssize_t query_size = rest->at > query ? rest->at - query : 0;
    if (!pass_text(rest, " HTTP/1.1\r\n", 11))
        return NULL;
    PyObject *parts[3] = {
        PyUnicode_FromStringAndSize(method, method_size),
        PyUnicode_FromStringAndSize(path, path_size),
        PyBytes_FromStringAndSize(query, query_size),
    };
    PyObject *found = NULL;
    if (parts[0] != NULL && parts[1] != NULL && parts[2] != NULL)
        found = PyTuple_Pack(3, parts[0], parts[1], parts[2]);
    for (int place = 0; place < 3; place++)
        Py_DecRef(parts[place]);
    return found;
}

static PyObject *read_request(PyObject *Py_UNUSED(module), PyObject *const *arguments,
                              Py_ssize_t count)
{
    Rest rest;
    Framing framing = {0};
    if (!has(count, 2) || !is_bytes(arguments, 0, &rest))
        return left();
    const char *from = rest.at;
    PyObject *target = read_target(&rest), *lines = NULL, *body = NULL, *found = NULL;
    if (target != NULL)
        lines = read_lines(&rest, &framing);
    if (lines != NULL && is_short(from, rest, framing, arguments[1], NULL)) {
        if (framing.length < 0)
            framing.length = 0;
        body = whole_body(rest, framing);
    }
    if (body != NULL)
        found = PyTuple_Pack(3, target, lines, body);
    Py_DecRef(target);
    Py_DecRef(lines);
    Py_DecRef(body);
    return found != NULL ? found : left();
}

/* The status of a final response with a body; 0 for a first line that is left. */
static int read_status(Rest *rest)
{
    if (!pass_text(rest, "HTTP/1.1 ", 9) || rest->end - rest->at < 4)
        return 0;
    const char *digits = rest->at;
    int status = 0;
    for (int place = 0; place < 3; place++) {
        if (digits[place] < '0' || digits[place] > '9')
            return 0;
        status = status * 10 + (digits[place] - '0');
    }
    rest->at += 3;
    if (status < 200 || status > 599 || status == 204 || status == 304 || *rest->at != ' ')
        return 0;
    while (rest->at < rest->end && in_value(*rest->at))
        rest->at++;
    return pass_text(rest, "\r\n", 2) ? status : 0;
}

static PyObject *read_response(PyObject *Py_UNUSED(module), PyObject *const *arguments,
                               Py_ssize_t count)
{
    Rest rest;
    Framing framing = {0};
    if (!has(count, 3) || !is_bytes(arguments, 0, &rest))
        return left();
    const char *from = rest.at;
    int status = read_status(&rest);
    PyObject *lines = NULL, *body = NULL, *found = NULL;
    if (status != 0)
        lines = read_lines(&rest, &framing);
    if (lines != NULL && is_short(from, rest, framing, arguments[1], arguments[2]))
        body = whole_body(rest, framing);
    PyObject *number = body == NULL ? NULL : PyLong_FromLong(status);
    if (number != NULL)
        found = PyTuple_Pack(3, number, lines, body);
    Py_DecRef(number);
    Py_DecRef(lines);
    Py_DecRef(body);
    return found != NULL ? found : left();
}

/* What is written of a line: both are borrowed of a list that nothing changes meanwhile. */
typedef struct {
    Rest name, value;
} Written;

static bool is_line(PyObject *line, Written *written)
{
    if (!PyTuple_CheckExact(line) || PyTuple_Size(line) != 2)
        return false;
    PyObject *parts[2] = {PyTuple_GetItem(line, 0), PyTuple_GetItem(line, 1)};
    return is_bytes(parts, 0, &written->name) && is_bytes(parts, 1, &written->value);
}

static size_t size_of(Rest rest)
{
    return (size_t)(rest.end - rest.at);
}

static bool equals(Rest rest, const char *text)
{
    return size_of(rest) == strlen(text) && memcmp(rest.at, text, strlen(text)) == 0;
}

/* Whether a line `connection` names other lines, which would have to be left out, too. */
static bool names_others(Written one)
{
    return equals(one.name, "connection") && !equals(one.value, "close") &&
           !equals(one.value, "keep-alive") && !equals(one.value, "Keep-Alive");
}

/* Collect the lines to write; -1 for an input that is left, or with an exception. */
static int choose_lines(PyObject *lines, PyObject *dropped, Written *written)
{
    int kept = 0;
    Py_ssize_t count = PyList_Size(lines);
    for (Py_ssize_t place = 0; place < count; place++) {
        PyObject *line = PyList_GetItem(lines, place);
        if (kept == MAX_WRITTEN || !is_line(line, &written[kept]))
            return -1;
        int is_dropped = PySet_Contains(dropped, PyTuple_GetItem(line, 0));
        if (is_dropped < 0 || (is_dropped && names_others(written[kept])))
            return -1;
        kept += !is_dropped;
    }
    return kept;
}

static char *put(char *to, Rest rest)
{
    memcpy(to, rest.at, size_of(rest));
    return to + size_of(rest);
}

static PyObject *join_lines(PyObject *Py_UNUSED(module), PyObject *const *arguments,
                            Py_ssize_t count)
{
    static const Rest colon = {": ", ": " + 2}, newline = {"\r\n", "\r\n" + 2};
    Rest before, after;
    Written written[MAX_WRITTEN];
    if (!has(count, 4) || !is_bytes(arguments, 0, &before) || !is_bytes(arguments, 3, &after) ||
        !PyList_CheckExact(arguments[1]))
        return left();
    int kept = choose_lines(arguments[1], arguments[2], written);
    if (kept < 0)
        return left();
    size_t size = size_of(before) + size_of(after);
    for (int place = 0; place < kept; place++)
        size += size_of(written[place].name) + size_of(written[place].value) + 4;
    PyObject *joined = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (joined == NULL)
        return NULL;
    char *to = put(PyBytes_AsString(joined), before);
    for (int place = 0; place < kept; place++) {
        to = put(put(to, written[place].name), colon);
        to = put(put(to, written[place].value), newline);
    }
    put(to, after);
    return joined;
}

static PyMethodDef functions[] = {
    {"read_request", (PyCFunction)(void (*)(void))read_request, METH_FASTCALL, NULL},
    {"read_response", (PyCFunction)(void (*)(void))read_response, METH_FASTCALL, NULL},
    {"join_lines", (PyCFunction)(void (*)(void))join_lines, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

int http_add(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
