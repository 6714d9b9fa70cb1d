/* Takes the chunks of an HTTP/1.1 body apart: see chunks.h. */
#include "chunks.h"

#include <stdbool.h>
#include <string.h>

#define MAX_DIGITS 7

static int digit_of(char one)
{
    if (one >= '0' && one <= '9')
        return one - '0';
    if (one >= 'a' && one <= 'f')
        return one - 'a' + 10;
    return one >= 'A' && one <= 'F' ? one - 'A' + 10 : -1;
}

/* Read the whole chunk at `*at`, and go on behind it; false if it is not whole or is the last. */
static bool next_chunk(const char **at, const char *end, const char **data, Py_ssize_t *size)
{
    const char *place = *at;
    Py_ssize_t value = 0;
    int digits = 0, digit;
    while (place < end && (digit = digit_of(*place)) >= 0) {
        if (++digits > MAX_DIGITS)
            return false;
        value = value << 4 | digit;
        place++;
    }
    if (value == 0 || end - place < value + 4 || place[0] != '\r' || place[1] != '\n')
        return false;
    place += 2;
    if (place[value] != '\r' || place[value + 1] != '\n')
        return false;
    *data = place;
    *size = value;
    *at = place + value + 2;
    return true;
}

PyObject *joined_chunks(const char *text, Py_ssize_t size)
{
    const char *at = text, *end = text + size, *data = NULL;
    Py_ssize_t total = 0, one = 0;
    int count = 0;
    for (; at < end; count++) {
        if (!next_chunk(&at, end, &data, &one))
            return NULL;
        total += one;
    }
    if (count <= 1)
        return count ? PyBytes_FromStringAndSize(data, one) : NULL;
    PyObject *joined = PyBytes_FromStringAndSize(NULL, total);
    if (joined == NULL)
        return NULL;
    char *to = PyBytes_AsString(joined);
    for (at = text; at < end && next_chunk(&at, end, &data, &one); to += one)
        memcpy(to, data, (size_t)one);
    return joined;
}

int are_chunks(const char *text, Py_ssize_t size, PyObject *pieces)
{
    const char *at = text, *end = text + size, *data = NULL;
    Py_ssize_t one = 0, place = 0;
    for (; at < end; place++) {
        if (place >= PyList_Size(pieces) || !next_chunk(&at, end, &data, &one))
            return 0;
        PyObject *piece = PyList_GetItem(pieces, place);
        if (!PyBytes_CheckExact(piece) || PyBytes_Size(piece) != one ||
            memcmp(PyBytes_AsString(piece), data, (size_t)one) != 0)
            return 0;
        if (place == 0 && memcmp(text, data, (size_t)one) == 0)
            return 0; /* the text may go on with a chunk that began before, and only look like one */
    }
    return place > 0 && place == PyList_Size(pieces);
}
