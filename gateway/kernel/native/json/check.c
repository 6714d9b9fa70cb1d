/* Passes JSON by, and checks that msgspec decodes it. */
#include "json.h"

#define MAX_DIGITS 40 /* of a number, point and signs included: far from the range's end */
#define MAX_POWER 2   /* digits of an exponent */

static const uint8_t *digits_end(const uint8_t *at, const uint8_t *end)
{
    while (at < end && is_digit(*at))
        at++;
    return at;
}

/* The end of the exponent that `at` stands after the `e` of; NULL if there is none, or a large one. */
static const uint8_t *power_end(const uint8_t *at, const uint8_t *end)
{
    if (at < end && (*at == '+' || *at == '-'))
        at++;
    const uint8_t *stop = digits_end(at, end);
    return stop > at && stop - at <= MAX_POWER ? stop : NULL;
}

static bool check_number(Reader *reader)
{
    const uint8_t *at = reader->at, *end = reader->end;
    if (at < end && *at == '-')
        at++;
    const uint8_t *stop = digits_end(at, end);
    if (stop == at || (*at == '0' && stop - at > 1))
        return false;
    if (stop < end && *stop == '.') {
        at = stop + 1;
        stop = digits_end(at, end);
        if (stop == at)
            return false;
    }
    if (stop < end && (*stop | 0x20) == 'e')
        stop = power_end(stop + 1, end);
    if (stop == NULL || stop - reader->at > MAX_DIGITS)
        return false;
    reader->at = stop;
    return true;
}

static bool check_key(Reader *reader)
{
    return peek(reader) == '"' && check_text(reader) && take_byte(reader, ':');
}

/* The items of a list or the fields of an object, whose first bracket the reader has passed. */
static bool check_items(Reader *reader, uint8_t close, unsigned depth)
{
    bool first = true, ended;
    for (;;) {
        if (!next_item(reader, close, &first, &ended))
            return false;
        if (ended)
            return true;
        if ((close == '}' && !check_key(reader)) || !check_value(reader, depth))
            return false;
    }
}

bool check_value(Reader *reader, unsigned depth)
{
    if (depth > MAX_DEPTH)
        return false;
    switch (peek(reader)) {
    case '"': return check_text(reader);
    case '{': reader->at++; return check_items(reader, '}', depth + 1);
    case '[': reader->at++; return check_items(reader, ']', depth + 1);
    case 'n': return take_null(reader);
    case 't': return take_word(reader, "true", 4);
    case 'f': return take_word(reader, "false", 5);
    default: return check_number(reader);
    }
}
