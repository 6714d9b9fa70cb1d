/* The lines of an HTTP/1.1 head: see head.h. */
#include "http/head.h"

#include <string.h>

#define MAX_DIGITS 15
#define TOKEN 1
#define VALUE 2
#define TARGET 4
#define SIGN (VALUE | TARGET)
#define LETTER (TOKEN | VALUE | TARGET)

/* RFC 9110, 5.6.2 and 5.5; in a target a `#` would begin a fragment. */
static const unsigned char kinds[256] = {
    ['\t'] = VALUE,        [' '] = VALUE,         ['!'] = LETTER,
    ['"'] = SIGN,          ['#'] = TOKEN | VALUE, ['$' ... '\''] = LETTER,
    ['(' ... ')'] = SIGN,  ['*' ... '+'] = LETTER, [','] = SIGN,
    ['-' ... '.'] = LETTER, ['/'] = SIGN,          ['0' ... '9'] = LETTER,
    [':' ... '@'] = SIGN,  ['A' ... 'Z'] = LETTER, ['[' ... ']'] = SIGN,
    ['^' ... 'z'] = LETTER, ['{'] = SIGN,          ['|'] = LETTER,
    ['}'] = SIGN,          ['~'] = LETTER,        [0x80 ... 0xff] = VALUE,
};

static bool is_a(char one, int kind)
{
    return (kinds[(unsigned char)one] & kind) != 0;
}

bool in_target(char one)
{
    return is_a(one, TARGET);
}

bool in_value(char one)
{
    return is_a(one, VALUE);
}

bool pass_text(Rest *rest, const char *text, size_t size)
{
    if ((size_t)(rest->end - rest->at) < size || memcmp(rest->at, text, size) != 0)
        return false;
    rest->at += size;
    return true;
}

/* A name of the line, which is a token, in lower case. */
static PyObject *lower_name(const char *from, Py_ssize_t size)
{
    PyObject *name = PyBytes_FromStringAndSize(NULL, size); /* of a text, one byte would be shared */
    if (name == NULL)
        return NULL;
    char *text = PyBytes_AsString(name);
    for (Py_ssize_t place = 0; place < size; place++) {
        bool upper = from[place] >= 'A' && from[place] <= 'Z';
        text[place] = (char)(from[place] + (upper ? 'a' - 'A' : 0));
    }
    return name;
}

static bool is_text(const char *one, Py_ssize_t size, const char *other)
{
    return (size_t)size == strlen(other) && memcmp(one, other, (size_t)size) == 0;
}

static bool read_length(Framing *framing, const char *value, Py_ssize_t size)
{
    if (framing->length >= 0 || size > MAX_DIGITS)
        return false;
    Py_ssize_t length = 0;
    for (Py_ssize_t place = 0; place < size; place++) {
        if (value[place] < '0' || value[place] > '9')
            return false;
        length = length * 10 + (value[place] - '0');
    }
    framing->length = length;
    return true;
}

/* False for a line that llhttp has to judge. */
static bool note(Framing *framing, PyObject *name, const char *value, Py_ssize_t size)
{
    const char *text = PyBytes_AsString(name);
    Py_ssize_t length = PyBytes_Size(name);
    switch (text[0]) {
    case 'c':
        if (is_text(text, length, "content-length"))
            return read_length(framing, value, size);
        if (is_text(text, length, "connection"))
            return is_text(value, size, "keep-alive") || is_text(value, size, "Keep-Alive");
        return true;
    case 'e':
        return !is_text(text, length, "expect");
    case 'p':
        return !is_text(text, length, "proxy-connection");
    case 't':
        return !is_text(text, length, "transfer-encoding");
    case 'u':
        return !is_text(text, length, "upgrade");
    }
    return true;
}

/* The line at `rest`, NULL without an exception if it is left. */
static PyObject *read_line(Rest *rest, Framing *framing)
{
    const char *from = rest->at, *at = from, *end = rest->end;
    while (at < end && is_a(*at, TOKEN))
        at++;
    Py_ssize_t size = at - from;
    if (size == 0 || at == end || *at != ':')
        return NULL;
    at++;
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    const char *value = at;
    while (at < end && is_a(*at, VALUE))
        at++;
    if (at == value || at[-1] == ' ' || at[-1] == '\t')
        return NULL;
    rest->at = at;
    if (!pass_text(rest, "\r\n", 2))
        return NULL;
    PyObject *name = lower_name(from, size), *line = NULL;
    if (name != NULL && note(framing, name, value, at - value)) {
        PyObject *kept = PyBytes_FromStringAndSize(value, at - value);
        if (kept != NULL)
            line = PyTuple_Pack(2, name, kept);
        Py_DecRef(kept);
    }
    Py_DecRef(name);
    return line;
}

PyObject *read_lines(Rest *rest, Framing *framing)
{
    framing->length = -1;
    framing->lines = 0;
    PyObject *lines = PyList_New(0);
    if (lines == NULL)
        return NULL;
    while (!pass_text(rest, "\r\n", 2)) {
        PyObject *line = read_line(rest, framing);
        int failed = line == NULL || PyList_Append(lines, line) < 0;
        Py_DecRef(line);
        if (failed) {
            Py_DecRef(lines);
            return NULL;
        }
        framing->lines++;
    }
    return lines;
}

PyObject *whole_body(Rest rest, Framing framing)
{
    Py_ssize_t size = rest.end - rest.at;
    return size == framing.length ? PyBytes_FromStringAndSize(rest.at, size) : NULL;
}
