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

/* What is around the choice of an event: `before` bytes and `after` others behind them. */
typedef struct {
    char *text;
    Py_ssize_t before;
    Py_ssize_t after;
    Py_ssize_t room;
} Around;

/* Read the event at `at`, as `read_exact` does in Python. Returns the place after it; NULL if it is of
 * another form or has more choices. */
const char *read_exact(const char *at, const char *end, ExactEvent *event);

/* The same for an event with these bytes around its choice. What is in them is not found again: `of`
 * stays empty. */
const char *read_alike(const Around *around, const char *at, const char *end, ExactEvent *event);

/* Keep what is around the choice of `event`; without memory nothing is kept. */
void around_learn(Around *around, const ExactEvent *event);

void around_free(Around *around);

#endif
