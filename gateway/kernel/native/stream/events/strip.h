/* The events of one stream: what the quick way of `gateway.wire.injection.Stripper` is in Python. */
#ifndef KERNEL_STRIP_H
#define KERNEL_STRIP_H

#include "stream/events/exact.h"
#include "stream/events/sent.h"

typedef struct {
    PyObject_HEAD
    bool ids, logprobs, usage, drop_empty;
    bool ended;     /* an event that ends a choice has been held since the latest `hand_back` */
    PyObject *held; /* such an event as it came, or NULL */
    Around around;  /* the choice of the latest event that was read as a whole */
} Strip;

extern PyType_Spec strip_spec;

/* Strip the events that `text` consists of into `sent`. Returns how many there are; 0: nothing is done
 * about them, they are left to Python; -1: no memory, with an exception set. */
Py_ssize_t strip_events(Strip *strip, const char *text, Py_ssize_t size, Sent *sent);

#endif
