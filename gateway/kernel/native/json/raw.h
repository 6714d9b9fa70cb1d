/* Passes over a JSON value, as strict as msgspec with a value of the type Raw. */
#ifndef KERNEL_RAW_H
#define KERNEL_RAW_H

/* Deeper values are left to the Python code: it has a limit of its own. */
#define RAW_DEPTH 64

/* Return the place after the value that begins at `at`; NULL if it is no JSON, has a line end in it,
 * nests deeper than `depth`, or does not end before `end`. Space before and after is not its own.
 *
 * As msgspec does, it takes any bytes above 0x1f within a string, whether they are UTF-8 or not. */
const char *skip_raw(const char *at, const char *end, int depth);

#endif
