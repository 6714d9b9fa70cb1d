/* Takes the chunks of an HTTP/1.1 body apart. */
#ifndef KERNEL_CHUNKS_H
#define KERNEL_CHUNKS_H

#include "kernel.h"

/* Return the data of the chunks that `text` consists of, joined, as bytes. NULL without an exception
 * if it is not whole chunks of data without extensions. */
PyObject *joined_chunks(const char *text, Py_ssize_t size);

/* Whether `text` certainly consists of whole chunks, if a parser has found `pieces` in it, the data
 * of its chunks as a list of bytes. What came before `text` does not matter. */
int are_chunks(const char *text, Py_ssize_t size, PyObject *pieces);

#endif
