/* Reads events of compact JSON in the key order of vLLM: see exact.h. */
#include "stream/events/exact.h"
#include "json/raw.h"

#include <string.h>

#define KEY(name) {name, sizeof name - 1}

static const Key EVENT[EVENT_KEYS] = {
    [ID] = KEY("id"),
    [OBJECT] = KEY("object"),
    [CREATED] = KEY("created"),
    [MODEL] = KEY("model"),
    [CHOICES] = KEY("choices"),
    [USAGE] = KEY("usage"),
    [PROMPT_TOKEN_IDS] = KEY("prompt_token_ids"),
    [PROMPT_TEXT] = KEY("prompt_text"),
    [SYSTEM_FINGERPRINT] = KEY("system_fingerprint"),
};

static const Key CHOICE[CHOICE_OF_KEYS] = {
    [INDEX] = KEY("index"),
    [DELTA] = KEY("delta"),
    [TEXT] = KEY("text"),
    [LOGPROBS] = KEY("logprobs"),
    [FINISH_REASON] = KEY("finish_reason"),
    [STOP_REASON] = KEY("stop_reason"),
    [MATCHED_STOP] = KEY("matched_stop"),
    [CHOICE_PROMPT_TOKEN_IDS] = KEY("prompt_token_ids"),
    [TOKEN_IDS] = KEY("token_ids"),
};

static const char *take(const char *at, const char *end, const char *text)
{
    size_t size = strlen(text);
    return (size_t)(end - at) >= size && memcmp(at, text, size) == 0 ? at + size : NULL;
}

/* The list of choices at `at`; returns the place after it, or NULL. */
static const char *read_choices(const char *at, const char *end, ExactEvent *event)
{
    at = take(at, end, "[");
    if (at == NULL || at == end)
        return NULL;
    event->has_choice = *at != ']';
    if (event->has_choice)
        at = read_members(CHOICE, CHOICE_OF_KEYS, at, end, event->choice);
    return at ? take(at, end, "]") : NULL;
}

/* The members at `at`, after the first brace; returns the place after the last one, or NULL. */
static const char *read_event(const char *at, const char *end, ExactEvent *event)
{
    for (int place = 0;; place++) {
        place = read_key(EVENT, EVENT_KEYS, place, &at, end);
        if (place < 0)
            return NULL;
        event->of[place].value = at;
        at = place == CHOICES ? read_choices(at, end, event) : skip_raw(at, end, RAW_DEPTH);
        if (at == NULL || at == end)
            return NULL;
        event->of[place].end = at;
        if (*at == '}')
            return at;
        if (*at++ != ',')
            return NULL;
    }
}

const char *read_exact(const char *at, const char *end, ExactEvent *event)
{
    *event = (ExactEvent){.start = at};
    at = take(at, end, "data: {");
    if (at != NULL)
        at = read_event(at, end, event);
    if (at != NULL)
        at = take(at, end, "}\n\n");
    if (at == NULL || event->of[CHOICES].value == NULL)
        return NULL;
    for (int place = 0; place < CHOICES; place++)
        if (!tells(event->of[place]))
            return NULL;
    event->end = at;
    return at;
}

const char *read_alike(const Around *around, const char *at, const char *end, ExactEvent *event)
{
    if (around->before == 0 || end - at < around->before + around->after ||
        memcmp(at, around->text, (size_t)around->before) != 0)
        return NULL;
    *event = (ExactEvent){.start = at, .has_choice = true};
    at = read_members(CHOICE, CHOICE_OF_KEYS, at + around->before, end, event->choice);
    if (at == NULL || end - at < around->after ||
        memcmp(at, around->text + around->before, (size_t)around->after) != 0)
        return NULL;
    event->end = at + around->after;
    return event->end;
}

void around_learn(Around *around, const ExactEvent *event)
{
    const char *choice = event->of[CHOICES].value + 1, *behind = event->of[CHOICES].end - 1;
    Py_ssize_t before = choice - event->start, after = event->end - behind;
    around->before = 0;
    if (around->room < before + after) {
        char *more = PyMem_Realloc(around->text, (size_t)(before + after));
        if (more == NULL)
            return;
        around->text = more;
        around->room = before + after;
    }
    memcpy(around->text, event->start, (size_t)before);
    memcpy(around->text + before, behind, (size_t)after);
    around->before = before;
    around->after = after;
}

void around_free(Around *around)
{
    PyMem_Free(around->text);
    *around = (Around){0};
}
