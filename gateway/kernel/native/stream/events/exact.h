/* Events of compact JSON in the key order of vLLM: `gateway.wire.stripping.exact_event`. */
#ifndef KERNEL_EXACT_H
#define KERNEL_EXACT_H

#include "stream/events/members.h"

enum {
    ID,
    OBJECT,
    CREATED,
    MODEL,
    CHOICES,
    USAGE,
    PROMPT_TOKEN_IDS,
    PROMPT_TEXT,
    SYSTEM_FINGERPRINT,
    EVENT_KEYS,
};

enum {
    INDEX,
    DELTA,
    TEXT,
    LOGPROBS,
    FINISH_REASON,
    STOP_REASON,
    MATCHED_STOP,
    CHOICE_PROMPT_TOKEN_IDS,
    TOKEN_IDS,
    CHOICE_OF_KEYS,
};

/* An event from `start` to `end`, its line ends included, with one choice or none. */
typedef struct {
    const char *start;
    const char *end;
    Span of[EVENT_KEYS];
    Span choice[CHOICE_OF_KEYS];
    bool has_choice;
} ExactEvent;

/* Read the event at `at`, as `read_exact` does in Python. Returns the place after it; NULL if it is of
 * another form or has more choices. */
const char *read_exact(const char *at, const char *end, ExactEvent *event);

#endif
