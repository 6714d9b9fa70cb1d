/* Passes from one field of an object to the next: see fields.h. */
#include "fields.h"

/* Whether the reader stands at the field's name, as engines write it; passes the name by. */
static inline bool is_at(Reader *reader, const Field *field)
{
    size_t size = field->size + 3;
    if ((size_t)(reader->end - reader->at) < size || memcmp(reader->at, field->quoted, size) != 0)
        return false;
    reader->at += size;
    return true;
}

static int seen_field(Fields *fields, unsigned place)
{
    if (fields->seen >> place & 1)
        return NOT_SURE;
    fields->seen |= UINT32_C(1) << place;
    fields->expected = place + 1;
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
    if (fields->expected < fields->count && is_at(reader, &fields->fields[fields->expected]))
        return seen_field(fields, fields->expected);
    if (!take_key(reader, &key))
        return NOT_SURE;
    for (unsigned place = 0; place < fields->count; place++) {
        const Field *field = &fields->fields[place];
        if (field->size == key.size && memcmp(field->quoted + 1, key.data, key.size) == 0)
            return seen_field(fields, place);
    }
    return NOT_SURE;
}
