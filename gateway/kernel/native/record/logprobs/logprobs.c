/* What the logprobs of chats and of completions share: see logprobs.h. */
#include "logprobs.h"

#include <float.h>

#define UNKNOWN_LOGPROB (-9999.0) /* as in verdict.py */
#define MAX_LOGPROB 1e-3

bool put_packed_text(Choice *choice, Slice text)
{
    uint8_t head[5];
    size_t size;
    if (text.size < 32) {
        head[0] = (uint8_t)(0xA0 | text.size);
        size = 1;
    } else if (text.size <= UINT8_MAX) {
        head[0] = 0xD9;
        head[1] = (uint8_t)text.size;
        size = 2;
    } else if (text.size <= UINT16_MAX) {
        head[0] = 0xDA;
        head[1] = (uint8_t)(text.size >> 8);
        head[2] = (uint8_t)text.size;
        size = 3;
    } else {
        if (text.size > UINT32_MAX)
            return false;
        head[0] = 0xDB;
        for (int place = 0; place < 4; place++)
            head[1 + place] = (uint8_t)(text.size >> (24 - 8 * place));
        size = 5;
    }
    choice->text_count++;
    return out_put(&choice->texts, head, size) && out_put(&choice->texts, text.data, text.size);
}

Slice next_packed_text(const uint8_t **at)
{
    const uint8_t *from = *at;
    size_t size = from[0] & 0x1F, head = 1;
    if (from[0] == 0xD9) {
        size = from[1];
        head = 2;
    } else if (from[0] == 0xDA) {
        size = (size_t)from[1] << 8 | from[2];
        head = 3;
    } else if (from[0] == 0xDB) {
        size = (size_t)from[1] << 24 | (size_t)from[2] << 16 | (size_t)from[3] << 8 | from[4];
        head = 5;
    }
    *at = from + head + size;
    return (Slice){from + head, size};
}

bool take_value(Reader *reader, bool *is_null, double *value)
{
    Decimal decimal;
    *is_null = peek(reader) == 'n';
    if (*is_null)
        return take_null(reader);
    if (!take_decimal(reader, &decimal) || !decimal_value(&decimal, value))
        return false;
    return decimal.digits || decimal.is_float || !decimal.negative; /* not -0 */
}

bool append_value(Choice *choice, Reader *reader)
{
    bool is_null;
    double value;
    skip_space(reader);
    const uint8_t *from = reader->at;
    uint32_t bits = UINT32_C(0x7FC00000);
    if (!take_value(reader, &is_null, &value))
        return false;
    if (is_null) {
        choice->invalid = true;
    } else {
        if (value > FLT_MAX || value < -FLT_MAX)
            return false;
        float kept = (float)value;
        memcpy(&bits, &kept, sizeof bits);
        choice->inexact |= (double)kept != value;
        choice->invalid |= !(value > UNKNOWN_LOGPROB && value <= MAX_LOGPROB);
    }
    return out_put(&choice->values, &bits, sizeof bits) &&
           out_put(&choice->places, &from, sizeof from);
}

bool is_empty_list(Reader *reader)
{
    return take_byte(reader, '[') && take_byte(reader, ']');
}

bool take_list(Choice *choice, Reader *reader, Out *scratch, size_t *count,
               bool (*take)(Choice *, Reader *, Out *))
{
    bool first = true, ended;
    if (!take_byte(reader, '['))
        return false;
    for (*count = 0;; ++*count) {
        if (!next_item(reader, ']', &first, &ended))
            return false;
        if (ended)
            return true;
        if (!take(choice, reader, scratch))
            return false;
    }
}
