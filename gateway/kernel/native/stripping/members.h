/* Members of an object, passed by as `gateway/wire/stripping/json_text.py` does in text that is only
 * roughly JSON: a value ends where its brackets are closed, whatever is in them. In JSON that is its
 * end. */
#ifndef KERNEL_MEMBERS_H
#define KERNEL_MEMBERS_H

#include "json/json.h"

/* A key without escapes, and the colon after it; the reader then stands at its value. */
bool pass_key(Reader *reader, Slice *key);

/* The reader stands at a value. */
bool pass_value(Reader *reader);

#endif
