/* The quick way of a stream's reads: see `Tap` in interface.py. */
#ifndef KERNEL_TAP_H
#define KERNEL_TAP_H

#include "kernel.h"

extern PyType_Spec tap_spec;

/* The state of the module of one of its types; NULL with an exception set. */
StreamState *stream_state(PyTypeObject *type);

#endif
