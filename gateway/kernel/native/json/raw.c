/* Passes over a JSON value: see raw.h. */
#include "raw.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    return at;
}

static bool is_digit(char one)
{
    return one >= '0' && one <= '9';
}

/* The value of four hexadecimal digits; -1 if they are none. */
static int read_hex(const char *at, const char *end)
{
    if (end - at < 4)
        return -1;
    int value = 0;
    for (int place = 0; place < 4; place++) {
        char one = at[place];
        int digit;
        if (is_digit(one))
            digit = one - '0';
        else if (one >= 'a' && one <= 'f')
            digit = one - 'a' + 10;
        else if (one >= 'A' && one <= 'F')
            digit = one - 'A' + 10;
        else
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* `at` is after "\u". Half of a surrogate pair alone is no JSON to msgspec. */
static const char *skip_unicode(const char *at, const char *end)
{
    int unit = read_hex(at, end);
    if (unit < 0 || (unit >= 0xDC00 && unit <= 0xDFFF))
        return NULL;
    at += 4;
    if (unit < 0xD800 || unit > 0xDBFF)
        return at;
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u')
        return NULL;
    unit = read_hex(at + 2, end);
    return unit >= 0xDC00 && unit <= 0xDFFF ? at + 6 : NULL;
}

/* `at` is after the first quotation mark. */
static const char *skip_string(const char *at, const char *end)
{
    while (at < end) {
        unsigned char one = (unsigned char)*at++;
        if (one == '"')
            return at;
        if (one < 0x20)
            return NULL;
        if (one != '\\')
            continue;
        if (at == end)
            return NULL;
        switch (*at++) {
        case '"':
        case '\\':
        case '/':
        case 'b':
        case 'f':
        case 'n':
        case 'r':
        case 't':
            break;
        case 'u':
            at = skip_unicode(at, end);
            if (at == NULL)
                return NULL;
            break;
        default:
            return NULL;
        }
    }
    return NULL;
}

/* At least one digit. */
static const char *skip_digits(const char *at, const char *end)
{
    if (at == end || !is_digit(*at))
        return NULL;
    while (at < end && is_digit(*at))
        at++;
    return at;
}

static const char *skip_number(const char *at, const char *end)
{
    if (at < end && *at == '-')
        at++;
    if (at < end && *at == '0')
        at++;
    else
        at = skip_digits(at, end);
    if (at != NULL && at < end && *at == '.')
        at = skip_digits(at + 1, end);
    if (at != NULL && at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-'))
            at++;
        at = skip_digits(at, end);
    }
    return at;
}

static const char *skip_word(const char *at, const char *end, const char *word)
{
    size_t size = strlen(word);
    return (size_t)(end - at) >= size && memcmp(at, word, size) == 0 ? at + size : NULL;
}

/* `at` is after a key's first quotation mark; returns the place of its value. */
static const char *skip_key(const char *at, const char *end)
{
    at = skip_string(at, end);
    if (at == NULL)
        return NULL;
    at = skip_space(at, end);
    return at < end && *at == ':' ? skip_space(at + 1, end) : NULL;
}

/* `at` is after the first bracket. */
static const char *skip_members(const char *at, const char *end, int depth, bool object)
{
    const char last = object ? '}' : ']';
    at = skip_space(at, end);
    if (at < end && *at == last)
        return at + 1;
    while (at < end) {
        if (object) {
            at = *at == '"' ? skip_key(at + 1, end) : NULL;
            if (at == NULL)
                return NULL;
        }
        at = skip_raw(at, end, depth);
        if (at == NULL)
            return NULL;
        at = skip_space(at, end);
        if (at == end)
            return NULL;
        if (*at == last)
            return at + 1;
        if (*at != ',')
            return NULL;
        at = skip_space(at + 1, end);
    }
    return NULL;
}

const char *skip_raw(const char *at, const char *end, int depth)
{
    if (at == end)
        return NULL;
    switch (*at) {
    case '"':
        return skip_string(at + 1, end);
    case '{':
    case '[':
        return depth > 0 ? skip_members(at + 1, end, depth - 1, *at == '{') : NULL;
    case 't':
        return skip_word(at, end, "true");
    case 'f':
        return skip_word(at, end, "false");
    case 'n':
        return skip_word(at, end, "null");
    default:
        return skip_number(at, end);
    }
}
