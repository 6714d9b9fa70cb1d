/* What the logprobs of chats (entries.c) and of completions (lists.c) share. */
#ifndef KERNEL_LOGPROBS_H
#define KERNEL_LOGPROBS_H

#include "record/answer.h"

/* Whether something is as its neighbours tell, is to be kept as it stands, or is left to Python. */
typedef enum { REGULAR, IRREGULAR, FAILED } Kind;

/* Appends the text of a token, as MessagePack. */
bool put_packed_text(Choice *choice, Slice text);

/* Reads back what put_packed_text has put. */
Slice next_packed_text(const uint8_t **at);

/* Reads a number or null as Python makes a float of it. */
bool take_value(Reader *reader, bool *is_null, double *value);

/* Appends a number or null to the values, and where its text is to the places. */
bool append_value(Choice *choice, Reader *reader);

bool is_empty_list(Reader *reader);

/* Reads a list, each item with `take`, and counts the items. */
bool take_list(Choice *choice, Reader *reader, Out *scratch, size_t *count,
               bool (*take)(Choice *, Reader *, Out *));

#endif
