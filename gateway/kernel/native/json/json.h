/* A strict JSON scanner, for the answers of record/record.c.
 *
 * What it accepts is accepted by msgspec, and what it writes is what msgspec writes for the same
 * value. A function returns false if it is not sure, and then its reader stands anywhere. A lack of
 * memory is such a case, too. Nothing here needs the GIL.
 */
#ifndef KERNEL_JSON_H
#define KERNEL_JSON_H

#include "kernel.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define MAX_DEPTH 48 /* of values in values */
#define MAX_KEYS 96  /* of an object that is copied: each key is compared to all others */

/* What is left to read; `at` never passes `end`. */
typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} Reader;

/* Bytes that grow, from malloc; zeroed at first. */
typedef struct {
    uint8_t *data;
    size_t size;
    size_t room;
} Out;

/* Bytes of somebody else. */
typedef struct {
    const uint8_t *data;
    size_t size;
} Slice;

bool out_grow(Out *out, size_t more);
void out_free(Out *out);

static inline bool out_reserve(Out *out, size_t more)
{
    return more <= out->room - out->size || out_grow(out, more);
}

static inline bool out_put(Out *out, const void *data, size_t size)
{
    if (!out_reserve(out, size))
        return false;
    if (size) /* memcpy may not be given NULL, even for nothing */
        memcpy(out->data + out->size, data, size);
    out->size += size;
    return true;
}

static inline bool out_byte(Out *out, uint8_t byte)
{
    if (out->size == out->room && !out_reserve(out, 1))
        return false;
    out->data[out->size++] = byte;
    return true;
}

#define out_text(out, literal) out_put(out, literal, sizeof(literal) - 1)

static inline Slice out_from(const Out *out, size_t from)
{
    Slice slice = {out->size == from ? NULL : out->data + from, out->size - from};
    return slice;
}

static inline bool same_bytes(const void *one, const void *other, size_t size)
{
    return size == 0 || memcmp(one, other, size) == 0;
}

#define slice_is(slice, literal) \
    ((slice).size == sizeof(literal) - 1 && memcmp((slice).data, literal, sizeof(literal) - 1) == 0)

static inline void skip_space(Reader *reader)
{
    while (reader->at < reader->end && (*reader->at == ' ' || *reader->at == '\n' ||
                                        *reader->at == '\r' || *reader->at == '\t'))
        reader->at++;
}

/* The next byte after white space, 0 at the end: no value begins with it. */
static inline uint8_t peek(Reader *reader)
{
    skip_space(reader);
    return reader->at < reader->end ? *reader->at : 0;
}

static inline bool take_byte(Reader *reader, uint8_t byte)
{
    if (peek(reader) != byte)
        return false;
    reader->at++;
    return true;
}

static inline bool at_end(Reader *reader)
{
    skip_space(reader);
    return reader->at == reader->end;
}

/* Whether another item follows in a list or an object that `close` ends; `*first` begins as true.
 * Sets `*ended` at its end. */
static inline bool next_item(Reader *reader, uint8_t close, bool *first, bool *ended)
{
    uint8_t next = peek(reader);
    *ended = next == close;
    if (*ended) {
        reader->at++;
        return true;
    }
    if (*first) {
        *first = false;
        return next != 0;
    }
    if (next != ',')
        return false;
    reader->at++;
    return peek(reader) != close; /* no comma before the end */
}

static inline bool is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

/* Passes by a comma that a digit follows, as in the lists that engines write. */
static inline bool is_digit_after_comma(Reader *reader)
{
    if (reader->end - reader->at < 2 || reader->at[0] != ',' || !is_digit(reader->at[1]))
        return false;
    reader->at++;
    return true;
}

bool take_word(Reader *reader, const char *word, size_t size);
bool take_null(Reader *reader);

/* A string as a slice of the text or, if it has escapes, of `scratch`, which is cleared before. */
bool take_text(Reader *reader, Out *scratch, Slice *text);

/* Appends a string's text. */
bool append_text(Reader *reader, Out *out);

/* Appends a text as it stands in a JSON string. */
bool escape_text(Slice text, Out *out);

/* A key without escapes, and the colon after it. */
bool take_key(Reader *reader, Slice *key);

/* Appends the value as msgspec writes it after decoding it. No object may have a key twice. */
bool copy_value(Reader *reader, Out *out, unsigned depth);
bool copy_text(Reader *reader, Out *out);

/* Appends a string as copy_text does, without its quotes. */
bool append_escaped(Reader *reader, Out *out);

/* Passes a value by without checking all of it: what is in it is to be read later. */
bool skip_value(Reader *reader);

/* Passes a string by in the same way; the reader stands at its opening quote. */
bool skip_text(Reader *reader);

/* Passes a value by that msgspec certainly decodes, whatever is in it. The reader stands at it. */
bool check_value(Reader *reader, unsigned depth);

/* Passes a string by in the same way. */
bool check_text(Reader *reader);

/* Whether a value that copy_value has written is false in Python, as `[]` or 0 are. */
bool is_falsy(Slice written);

/* The value of a key in an object that copy_value has written; size 0 if it has no such key. */
Slice find_key(Slice object, const char *key);

/* An integer of at most 18 digits, as it stands. */
bool take_integer(Reader *reader, int64_t *value);

/* A token id: from 0 to 2**31 - 1. */
static inline bool take_id(Reader *reader, int32_t *value)
{
    const uint8_t *from, *at, *end = reader->end;
    int64_t number = 0;
    skip_space(reader);
    from = at = reader->at;
    while (at < end && is_digit(*at) && at - from < 10)
        number = number * 10 + (*at++ - '0');
    if (at == from || number > INT32_MAX || (*from == '0' && at - from > 1))
        return false;
    if (at < end && (is_digit(*at) || *at == '.' || (*at | 0x20) == 'e'))
        return false;
    reader->at = at;
    *value = (int32_t)number;
    return true;
}

/* A number as its significant digits and a power of ten. */
typedef struct {
    uint64_t digits;
    int power;
    bool negative;
    bool is_float; /* with a point or an exponent */
    bool is_fixed; /* with a point and no exponent */
    Slice text;
} Decimal;

bool take_decimal(Reader *reader, Decimal *decimal);

/* The double nearest to it. */
bool decimal_value(const Decimal *decimal, double *value);

/* Appends the shortest text of its double, with a point or an exponent. Not sure if the double
 * has a shorter or a nearer text than these digits, which is then what msgspec writes. */
bool write_float(const Decimal *decimal, Out *out);

#endif
