/* Finds where a member ends: see members.h. */
#include "members.h"

/* `at` is after the first quote. */
static const uint8_t *string_end(const uint8_t *at, const uint8_t *end)
{
    while (at < end) {
        uint8_t one = *at++;
        if (one == '"')
            return at;
        if (one == '\\' && at++ == end)
            return NULL;
    }
    return NULL;
}

static bool is_of_word(uint8_t one)
{
    return is_digit(one) || (one >= 'A' && one <= 'Z') || (one >= 'a' && one <= 'z') ||
           one == '-' || one == '+' || one == '.';
}

static const uint8_t *word_end(const uint8_t *at, const uint8_t *end)
{
    const uint8_t *from = at;
    while (at < end && is_of_word(*at))
        at++;
    return at > from ? at : NULL;
}

/* `at` is at the first bracket. */
static const uint8_t *brackets_end(const uint8_t *at, const uint8_t *end)
{
    size_t open = 0;
    while (at < end) {
        uint8_t one = *at++;
        if (one == '"') {
            at = string_end(at, end);
            if (at == NULL)
                return NULL;
        } else if ((one | 0x20) == '{') {
            open++;
        } else if ((one | 0x20) == '}' && --open == 0) {
            return at;
        }
    }
    return NULL;
}

bool pass_value(Reader *reader)
{
    const uint8_t *at = reader->at, *end = reader->end;
    switch (peek(reader)) {
    case 0: return false;
    case '"': at = string_end(at + 1, end); break;
    case '{':
    case '[': at = brackets_end(at, end); break;
    default: at = word_end(at, end);
    }
    if (at == NULL)
        return false;
    reader->at = at;
    return true;
}

bool pass_key(Reader *reader, Slice *key)
{
    if (!take_byte(reader, '"'))
        return false;
    const uint8_t *from = reader->at, *stop = string_end(from, reader->end);
    if (stop == NULL || memchr(from, '\\', (size_t)(stop - from)) != NULL)
        return false;
    *key = (Slice){from, (size_t)(stop - from) - 1};
    reader->at = stop;
    return take_byte(reader, ':') && peek(reader) != 0;
}
