/* Events of one frame: what `gateway.wire.stripping.fast_strip.Frame` is in Python. */
#ifndef KERNEL_CUT_H
#define KERNEL_CUT_H

#include "stream/events/members.h"
#include "stream/events/sent.h"

#define CHOICE_KEYS 16

typedef struct {
    PyObject_HEAD
    PyObject *before;
    PyObject *after;
    PyObject *keys; /* a tuple of bytes, which `key` points into */
    Key key[CHOICE_KEYS];
    int count;
    int delta, finish_reason, logprobs, token_ids, prompt_token_ids; /* places in `key`, or -1 */
    bool ids, blanks_logprobs, drop_empty, through;
} Cut;

extern PyType_Spec cut_spec;

/* Cut the events that `text` consists of. Returns how many there are; 0: it is left to Python;
 * -1: no memory, with an exception set. Fills `sent` unless the cut is a `through` one, whose events
 * are sent as they are. */
Py_ssize_t cut_events(const Cut *cut, const char *text, Py_ssize_t size, Sent *sent);

#endif
