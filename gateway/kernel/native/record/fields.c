/* Passes from one field of an object to the next: see fields.h. */
#include "fields.h"

static inline bool is_same_word(const uint8_t *one, const char *other)
{
    uint64_t mine, yours;
    memcpy(&mine, one, sizeof mine);
    memcpy(&yours, other, sizeof yours);
    return mine == yours;
}

/* Whether bytes are the same; without the call that memcmp would be. */
static inline bool is_same(const uint8_t *one, const char *other, size_t size)
{
    size_t at = 0;
    if (size < sizeof(uint64_t))
        return memcmp(one, other, size) == 0;
    for (; at + sizeof(uint64_t) <= size; at += sizeof(uint64_t))
        if (!is_same_word(one + at, other + at))
            return false;
    at = size - sizeof(uint64_t);
    return is_same_word(one + at, other + at);
}

/* Whether the reader stands at the field's name, as engines write it; passes the name by. */
static inline bool is_at(Reader *reader, const Field *field)
{
    size_t size = field->size + 3;
    if ((size_t)(reader->end - reader->at) < size || !is_same(reader->at, field->quoted, size))
        return false;
    reader->at += size;
    return true;
}

/* The number of the field that is likely to come next. */
static inline unsigned expected(const Fields *fields)
{
    unsigned next = fields->order == NULL ? 0 : fields->order->after[fields->last];
    return next ? next - 1 : fields->last;
}

static int seen_field(Fields *fields, unsigned place)
{
    if (fields->seen >> place & 1)
        return NOT_SURE;
    fields->seen |= UINT32_C(1) << place;
    if (fields->order != NULL)
        fields->order->after[fields->last] = (uint8_t)(place + 1);
    fields->last = place + 1;
    return (int)place;
}

int next_field(Fields *fields, Reader *reader)
{
    bool ended;
    Slice key;
    if (!next_item(reader, '}', &fields->first, &ended))
        return NOT_SURE;
    if (ended)
        return NO_FIELD;
    unsigned likely = expected(fields);
    if (likely < fields->count && is_at(reader, &fields->fields[likely]))
        return seen_field(fields, likely);
    if (!take_key(reader, &key))
        return NOT_SURE;
    for (unsigned place = 0; place < fields->count; place++) {
        const Field *field = &fields->fields[place];
        if (field->size == key.size && memcmp(field->quoted + 1, key.data, key.size) == 0)
            return seen_field(fields, place);
    }
    return NOT_SURE;
}
