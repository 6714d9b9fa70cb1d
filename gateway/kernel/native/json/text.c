/* Strings and keys of JSON: as strict as msgspec in UTF-8 and escapes. */
#include "json.h"

#define EVERY(byte) (UINT64_C(0x0101010101010101) * (byte))

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define FIRST_BYTE(bits) ((size_t)__builtin_ctzll(bits) / 8)
#else
#define FIRST_BYTE(bits) ((size_t)__builtin_clzll(bits) / 8)
#endif

/* The bit 0x80 of each byte that is no plain text. A borrow may set those of more significant bytes
 * too, so that the first one in memory may be wrong in one order of bytes: plain_end then goes on. */
static inline uint64_t odd_bytes(uint64_t word)
{
    uint64_t quotes = word ^ EVERY('"'), slashes = word ^ EVERY('\\');
    uint64_t odd = (word - EVERY(0x20)) | (quotes - EVERY(1)) | (slashes - EVERY(1)) | word;
    return odd & EVERY(0x80);
}

/* The first byte that is not plain text: a quote, a backslash, a control character, no ASCII. */
static const uint8_t *plain_end(const uint8_t *at, const uint8_t *end)
{
    while (end - at >= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        uint64_t odd = odd_bytes(word);
        at += odd ? FIRST_BYTE(odd) : 8;
        if (odd)
            break;
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
        do { /* characters beyond ASCII come together */
            size_t size = wide_size(at, end);
            if (size == 0)
                return NULL;
            at += size;
        } while (at < end && *at >= 0x80);
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

bool skip_text(Reader *reader)
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

bool check_text(Reader *reader)
{
    uint32_t character;
    reader->at++;
    for (;;) {
        const uint8_t *stop = text_end(reader->at, reader->end);
        if (stop == NULL || stop == reader->end)
            return false;
        reader->at = stop + 1;
        if (*stop == '"')
            return true;
        if (*stop != '\\' || !take_escape(reader, &character))
            return false;
    }
}
