/* Values of JSON: as strict as msgspec in numbers and depth. Strings are read in text.c. */
#include "json.h"

#include <stdlib.h>

bool out_grow(Out *out, size_t more)
{
    if (more > SIZE_MAX / 4 || out->size > SIZE_MAX / 4)
        return false;
    size_t room = out->room * 2 > out->size + more ? out->room * 2 : out->size + more;
    room = room < 256 ? 256 : room;
    uint8_t *data = realloc(out->data, room);
    if (data == NULL)
        return false;
    out->data = data;
    out->room = room;
    return true;
}

void out_free(Out *out)
{
    free(out->data);
    memset(out, 0, sizeof *out);
}

bool take_word(Reader *reader, const char *word, size_t size)
{
    skip_space(reader);
    if ((size_t)(reader->end - reader->at) < size || memcmp(reader->at, word, size) != 0)
        return false;
    reader->at += size;
    return true;
}

bool take_null(Reader *reader)
{
    return take_word(reader, "null", 4);
}

static bool copy_list(Reader *reader, Out *out, unsigned depth)
{
    bool first = true, ended;
    reader->at++;
    if (!out_byte(out, '['))
        return false;
    for (;;) {
        bool before = first;
        if (!next_item(reader, ']', &first, &ended))
            return false;
        if (ended)
            return out_byte(out, ']');
        if ((!before && !out_byte(out, ',')) || !copy_value(reader, out, depth + 1))
            return false;
    }
}

typedef struct {
    size_t from, size;
} Place;

static bool is_known(const Out *out, const Place *known, size_t count, Place key)
{
    for (size_t place = 0; place < count; place++)
        if (known[place].size == key.size &&
            memcmp(out->data + known[place].from, out->data + key.from, key.size) == 0)
            return true;
    return false;
}

static bool copy_object(Reader *reader, Out *out, unsigned depth)
{
    bool first = true, ended;
    Place keys[MAX_KEYS];
    size_t count = 0;
    reader->at++;
    if (!out_byte(out, '{'))
        return false;
    for (;;) {
        bool before = first;
        if (!next_item(reader, '}', &first, &ended))
            return false;
        if (ended)
            return out_byte(out, '}');
        if (count == MAX_KEYS || (!before && !out_byte(out, ',')))
            return false;
        size_t from = out->size;
        if (!copy_text(reader, out))
            return false;
        keys[count] = (Place){from, out->size - from};
        if (is_known(out, keys, count, keys[count]))
            return false;
        count++;
        if (!take_byte(reader, ':') || !out_byte(out, ':') || !copy_value(reader, out, depth + 1))
            return false;
    }
}

static bool copy_word(Reader *reader, Out *out, const char *word, size_t size)
{
    return take_word(reader, word, size) && out_put(out, word, size);
}

/* The end of an integer from 0 to 999, as bytes are; NULL if it is another number. */
static const uint8_t *small_end(const uint8_t *at, const uint8_t *end)
{
    const uint8_t *from = at;
    while (at < end && is_digit(*at))
        if (++at - from > 3)
            return NULL;
    if (at == from || at == end || (*from == '0' && at - from > 1))
        return NULL;
    return *at == ',' || *at == ']' || *at == '}' ? at : NULL;
}

static bool copy_number(Reader *reader, Out *out)
{
    const uint8_t *from = reader->at, *stop = small_end(from, reader->end);
    Decimal decimal;
    if (stop != NULL) {
        reader->at = stop;
        return out_put(out, from, (size_t)(stop - from));
    }
    if (!take_decimal(reader, &decimal))
        return false;
    if (decimal.is_float)
        return write_float(&decimal, out);
    if (decimal.digits == 0 && decimal.negative)
        return false; /* -0 */
    return out_put(out, from, (size_t)(reader->at - from));
}

bool copy_value(Reader *reader, Out *out, unsigned depth)
{
    if (depth > MAX_DEPTH)
        return false;
    switch (peek(reader)) {
    case '"': return copy_text(reader, out);
    case '{': return copy_object(reader, out, depth);
    case '[': return copy_list(reader, out, depth);
    case 'n': return copy_word(reader, out, "null", 4);
    case 't': return copy_word(reader, out, "true", 4);
    case 'f': return copy_word(reader, out, "false", 5);
    default: return copy_number(reader, out);
    }
}

bool skip_value(Reader *reader)
{
    size_t open = 0;
    do {
        switch (peek(reader)) {
        case 0: return false;
        case '"':
            if (!skip_text(reader))
                return false;
            break;
        case '[':
        case '{':
            open++;
            reader->at++;
            break;
        case ']':
        case '}':
            if (open == 0)
                return false;
            open--;
            reader->at++;
            break;
        case ',':
        case ':':
            if (open == 0)
                return false;
            reader->at++;
            break;
        default:
            while (reader->at < reader->end && strchr("+-.0123456789Eaeflnrstu", *reader->at) &&
                   *reader->at)
                reader->at++;
            if (open == 0)
                return true;
            if (reader->at < reader->end && !strchr(",:]} \t\r\n", *reader->at))
                return false;
        }
    } while (open);
    return true;
}

bool is_falsy(Slice written)
{
    return slice_is(written, "null") || slice_is(written, "[]") || slice_is(written, "{}") ||
           slice_is(written, "\"\"") || slice_is(written, "0") || slice_is(written, "false") ||
           slice_is(written, "0.0") || slice_is(written, "-0.0");
}

Slice find_key(Slice object, const char *name)
{
    Slice nothing = {NULL, 0}, key;
    Reader reader = {object.data, object.data + object.size};
    bool first = true, ended;
    if (object.size == 0 || !take_byte(&reader, '{'))
        return nothing;
    while (next_item(&reader, '}', &first, &ended) && !ended) {
        Reader before = reader;
        if (!take_key(&reader, &key)) {
            /* A key with escapes or beyond ASCII is none of those that are looked for. */
            reader = before;
            if (!skip_value(&reader) || !take_byte(&reader, ':'))
                return nothing;
            key = nothing;
        }
        const uint8_t *from = reader.at;
        if (!skip_value(&reader))
            return nothing;
        if (key.size == strlen(name) && same_bytes(key.data, name, key.size))
            return (Slice){from, (size_t)(reader.at - from)};
    }
    return nothing;
}
