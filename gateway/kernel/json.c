/* A strict JSON scanner: as strict as msgspec in UTF-8, strings, numbers and depth. */
#include "json.h"

#include <stdlib.h>

#define EVERY(byte) (UINT64_C(0x0101010101010101) * (byte))

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

static bool take_word(Reader *reader, const char *word, size_t size)
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

/* The first byte that is not plain text: a quote, a backslash, a control character, no ASCII. */
static const uint8_t *plain_end(const uint8_t *at, const uint8_t *end)
{
    while (end - at >= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        uint64_t quotes = word ^ EVERY('"'), slashes = word ^ EVERY('\\');
        uint64_t odd = (word - EVERY(0x20)) | (quotes - EVERY(1)) | (slashes - EVERY(1)) | word;
        if (odd & EVERY(0x80))
            break; /* perhaps: a borrow may have set the bit */
        at += 8;
    }
    while (at < end && *at >= 0x20 && *at < 0x80 && *at != '"' && *at != '\\')
        at++;
    return at;
}

static inline bool continues(uint8_t byte)
{
    return (byte & 0xC0) == 0x80;
}

/* The size of a character beyond ASCII; 0 if it is no UTF-8. */
static size_t wide_size(const uint8_t *at, const uint8_t *end)
{
    size_t left = (size_t)(end - at);
    uint8_t first = at[0];
    if (first >= 0xC2 && first <= 0xDF)
        return left >= 2 && continues(at[1]) ? 2 : 0;
    if (first >= 0xE0 && first <= 0xEF) {
        if (left < 3 || !continues(at[1]) || !continues(at[2]))
            return 0;
        if (first == 0xE0 && at[1] < 0xA0)
            return 0; /* would fit into two bytes */
        return first == 0xED && at[1] >= 0xA0 ? 0 : 3; /* half of a pair */
    }
    if (first >= 0xF0 && first <= 0xF4) {
        if (left < 4 || !continues(at[1]) || !continues(at[2]) || !continues(at[3]))
            return 0;
        if (first == 0xF0 && at[1] < 0x90)
            return 0;
        return first == 0xF4 && at[1] >= 0x90 ? 0 : 4;
    }
    return 0;
}

static const uint8_t *text_end(const uint8_t *at, const uint8_t *end)
{
    for (;;) {
        at = plain_end(at, end);
        if (at == end || *at < 0x80)
            return at;
        size_t size = wide_size(at, end);
        if (size == 0)
            return NULL;
        at += size;
    }
}

static bool take_hex(Reader *reader, uint32_t *unit)
{
    if (reader->end - reader->at < 4)
        return false;
    *unit = 0;
    for (int place = 0; place < 4; place++) {
        uint8_t digit = *reader->at++;
        uint32_t value;
        if (digit >= '0' && digit <= '9')
            value = digit - '0';
        else if ((digit | 0x20) >= 'a' && (digit | 0x20) <= 'f')
            value = (digit | 0x20) - 'a' + 10;
        else
            return false;
        *unit = *unit << 4 | value;
    }
    return true;
}

/* The character of an escape; the reader stands after the backslash. */
static bool take_escape(Reader *reader, uint32_t *character)
{
    if (reader->at == reader->end)
        return false;
    switch (*reader->at++) {
    case '"': *character = '"'; return true;
    case '\\': *character = '\\'; return true;
    case '/': *character = '/'; return true;
    case 'b': *character = '\b'; return true;
    case 'f': *character = '\f'; return true;
    case 'n': *character = '\n'; return true;
    case 'r': *character = '\r'; return true;
    case 't': *character = '\t'; return true;
    case 'u': break;
    default: return false;
    }
    uint32_t low;
    if (!take_hex(reader, character) || (*character & 0xFC00) == 0xDC00)
        return false;
    if ((*character & 0xFC00) != 0xD800)
        return true;
    if (reader->end - reader->at < 2 || reader->at[0] != '\\' || reader->at[1] != 'u')
        return false;
    reader->at += 2;
    if (!take_hex(reader, &low) || (low & 0xFC00) != 0xDC00)
        return false;
    *character = 0x10000 + ((*character & 0x3FF) << 10 | (low & 0x3FF));
    return true;
}

static bool put_character(Out *out, uint32_t character)
{
    uint8_t bytes[4];
    size_t size = 1;
    if (character < 0x80) {
        bytes[0] = (uint8_t)character;
    } else if (character < 0x800) {
        bytes[0] = (uint8_t)(0xC0 | character >> 6);
        size = 2;
    } else if (character < 0x10000) {
        bytes[0] = (uint8_t)(0xE0 | character >> 12);
        size = 3;
    } else {
        bytes[0] = (uint8_t)(0xF0 | character >> 18);
        size = 4;
    }
    for (size_t place = 1; place < size; place++)
        bytes[place] = (uint8_t)(0x80 | (character >> 6 * (size - 1 - place) & 0x3F));
    return out_put(out, bytes, size);
}

/* As msgspec writes a character in a string. */
static bool put_escaped(Out *out, uint32_t character)
{
    static const char digits[] = "0123456789abcdef";
    switch (character) {
    case '"': return out_text(out, "\\\"");
    case '\\': return out_text(out, "\\\\");
    case '\b': return out_text(out, "\\b");
    case '\f': return out_text(out, "\\f");
    case '\n': return out_text(out, "\\n");
    case '\r': return out_text(out, "\\r");
    case '\t': return out_text(out, "\\t");
    default: break;
    }
    if (character >= 0x20)
        return put_character(out, character);
    return out_text(out, "\\u00") && out_byte(out, (uint8_t)digits[character >> 4]) &&
           out_byte(out, (uint8_t)digits[character & 15]);
}

bool escape_text(Slice text, Out *out)
{
    for (size_t place = 0; place < text.size; place++) {
        uint8_t byte = text.data[place];
        if (!(byte < 0x80 ? put_escaped(out, byte) : out_byte(out, byte)))
            return false;
    }
    return true;
}

/* Appends the rest of a string up to its closing quote, which is passed by. */
static bool append_rest(Reader *reader, Out *out, bool (*put)(Out *, uint32_t))
{
    for (;;) {
        const uint8_t *stop = text_end(reader->at, reader->end);
        if (stop == NULL || stop == reader->end)
            return false;
        if (!out_put(out, reader->at, (size_t)(stop - reader->at)))
            return false;
        reader->at = stop + 1;
        if (*stop == '"')
            return true;
        uint32_t character;
        if (*stop != '\\' || !take_escape(reader, &character) || !put(out, character))
            return false;
    }
}

bool append_text(Reader *reader, Out *out)
{
    return take_byte(reader, '"') && append_rest(reader, out, put_character);
}

bool append_escaped(Reader *reader, Out *out)
{
    return take_byte(reader, '"') && append_rest(reader, out, put_escaped);
}

bool copy_text(Reader *reader, Out *out)
{
    return out_byte(out, '"') && append_escaped(reader, out) && out_byte(out, '"');
}

bool take_text(Reader *reader, Out *scratch, Slice *text)
{
    if (!take_byte(reader, '"'))
        return false;
    const uint8_t *from = reader->at, *stop = text_end(from, reader->end);
    if (stop == NULL || stop == reader->end)
        return false;
    if (*stop == '"') {
        reader->at = stop + 1;
        *text = (Slice){from, (size_t)(stop - from)};
        return true;
    }
    scratch->size = 0;
    if (!append_rest(reader, scratch, put_character))
        return false;
    *text = out_from(scratch, 0);
    return true;
}

bool take_key(Reader *reader, Slice *key)
{
    if (!take_byte(reader, '"'))
        return false;
    const uint8_t *from = reader->at, *stop = plain_end(from, reader->end);
    if (stop == reader->end || *stop != '"')
        return false;
    *key = (Slice){from, (size_t)(stop - from)};
    reader->at = stop + 1;
    return take_byte(reader, ':');
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

static bool skip_text(Reader *reader)
{
    reader->at++;
    for (;;) {
        const uint8_t *stop = text_end(reader->at, reader->end);
        if (stop == NULL || stop == reader->end)
            return false;
        reader->at = stop + 1;
        if (*stop == '"')
            return true;
        if (*stop != '\\' || reader->at == reader->end)
            return false;
        reader->at++;
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
