/* The logprobs of a chat: an entry for each token. */
#include "logprobs.h"

enum { TOKEN, LOGPROB, BYTES, ENTRY_TOPS, ENTRY_ID };

static const Field ENTRY[] = {FIELD("token"), FIELD("logprob"), FIELD("bytes"),
                              FIELD("top_logprobs"), FIELD("id")};

/* Whether a list has the bytes of a text. */
static bool has_bytes_of(Reader *reader, Slice text)
{
    bool first = true, ended;
    int32_t byte;
    if (!take_byte(reader, '['))
        return false;
    for (size_t place = 0;; place++) {
        if (!next_item(reader, ']', &first, &ended))
            return false;
        if (ended)
            return place == text.size;
        for (;; place++) {
            if (place == text.size || !take_id(reader, &byte) || byte != text.data[place])
                return false;
            if (!is_digit_after_comma(reader))
                break;
        }
    }
}

/* Reads an entry whose bytes are those of its text, which has no alternatives and no id. */
static Kind take_regular(Choice *choice, Reader *reader, Out *scratch)
{
    Fields fields = FIELDS(ENTRY);
    Slice text = {NULL, 0};
    Reader bytes = {0}; /* where they are, if they come before the text, as in sorted keys */
    for (int field; (field = next_field(&fields, reader)) != NO_FIELD;) {
        switch (field) {
        case TOKEN:
            if (!take_text(reader, scratch, &text))
                return FAILED;
            if (bytes.at != NULL && !has_bytes_of(&bytes, text))
                return IRREGULAR;
            break;
        case LOGPROB:
            if (!append_value(choice, reader))
                return FAILED;
            break;
        case BYTES:
            if (!(fields.seen & 1 << TOKEN)) {
                bytes = *reader;
                if (!skip_value(reader))
                    return FAILED;
            } else if (!has_bytes_of(reader, text))
                return IRREGULAR;
            break;
        case ENTRY_TOPS:
            if (!is_empty_list(reader))
                return IRREGULAR;
            break;
        default:
            return field == ENTRY_ID ? IRREGULAR : FAILED;
        }
    }
    if (fields.seen != (1 << TOKEN | 1 << LOGPROB | 1 << BYTES | 1 << ENTRY_TOPS))
        return IRREGULAR;
    return put_packed_text(choice, text) ? REGULAR : FAILED;
}

static bool write_bytes(Out *out, Slice text)
{
    char number[4];
    for (size_t place = 0; place < text.size; place++) {
        unsigned byte = text.data[place], size = 0;
        if (place)
            number[size++] = ',';
        if (byte >= 100)
            number[size++] = (char)('0' + byte / 100);
        if (byte >= 10)
            number[size++] = (char)('0' + byte / 10 % 10);
        number[size++] = (char)('0' + byte % 10);
        if (!out_put(out, number, size))
            return false;
    }
    return true;
}

/* Writes the entries so far, all of them regular, as `extra` has them. */
static bool make_irregular(Choice *choice)
{
    const uint8_t *at = choice->texts.data;
    choice->irregular = true;
    choice->lacks_id = choice->text_count > 0;
    for (size_t place = 0; place < choice->text_count; place++) {
        Slice text = next_packed_text(&at);
        if ((place && !out_byte(&choice->content, ',')) ||
            !out_text(&choice->content, "{\"bytes\":[") || !write_bytes(&choice->content, text) ||
            !out_text(&choice->content, "],\"top_logprobs\":[]}"))
            return false;
    }
    return true;
}

static bool copy_integers(Reader *reader, Out *out)
{
    bool first = true, ended;
    int64_t number;
    if (!take_byte(reader, '[') || !out_byte(out, '['))
        return false;
    for (;;) {
        bool before = first;
        if (!next_item(reader, ']', &first, &ended))
            return false;
        if (ended)
            return out_byte(out, ']');
        skip_space(reader);
        const uint8_t *from = reader->at;
        if (!take_integer(reader, &number) || (!before && !out_byte(out, ',')) ||
            !out_put(out, from, (size_t)(reader->at - from)))
            return false;
    }
}

static bool copy_entry_field(Choice *choice, Reader *reader, int field)
{
    Out *out = &choice->content;
    int32_t id;
    if ((out->data[out->size - 1] != '{' && !out_byte(out, ',')) || !put_name(out, &ENTRY[field]))
        return false;
    if (peek(reader) == 'n') {
        choice->lacks_id |= field == ENTRY_ID;
        return take_null(reader) && out_text(out, "null");
    }
    if (field == BYTES)
        return copy_integers(reader, out);
    if (field == ENTRY_TOPS)
        return peek(reader) == '[' && copy_value(reader, out, 1);
    const uint8_t *from = reader->at;
    return take_id(reader, &id) && out_put(&choice->entry_ids, &id, sizeof id) &&
           out_put(out, from, (size_t)(reader->at - from));
}

static bool take_irregular(Choice *choice, Reader *reader, Out *scratch)
{
    Fields fields = FIELDS(ENTRY);
    Slice text;
    int last = BYTES;
    if ((choice->text_count && !out_byte(&choice->content, ',')) ||
        !out_byte(&choice->content, '{'))
        return false;
    for (int field; (field = next_field(&fields, reader)) != NO_FIELD;) {
        if (field == NOT_SURE)
            return false;
        if (field == TOKEN) {
            if (!take_text(reader, scratch, &text) || !put_packed_text(choice, text))
                return false;
        } else if (field == LOGPROB) {
            if (!append_value(choice, reader))
                return false;
        } else {
            if (field < last) /* msgspec would write them in another order */
                return false;
            last = field;
            if (!copy_entry_field(choice, reader, field))
                return false;
        }
    }
    choice->lacks_id |= !(fields.seen >> ENTRY_ID & 1);
    return (fields.seen & 3) == 3 && out_byte(&choice->content, '}');
}

static bool take_entry(Choice *choice, Reader *reader, Out *scratch)
{
    const uint8_t *from;
    size_t values = choice->values.size, places = choice->places.size;
    if (!take_byte(reader, '{'))
        return false;
    from = reader->at;
    if (!choice->irregular) {
        Kind kind = take_regular(choice, reader, scratch);
        if (kind != IRREGULAR)
            return kind == REGULAR;
        choice->values.size = values;
        choice->places.size = places;
        reader->at = from;
        if (!make_irregular(choice))
            return false;
    }
    return take_irregular(choice, reader, scratch);
}

static const Field CHAT_SCORES[] = {FIELD("content"), FIELD("refusal")};

bool take_chat_scores(Choice *choice, Reader *reader, Out *scratch, Mark *marks, size_t *count)
{
    Fields fields = FIELDS(CHAT_SCORES);
    *count = 0;
    if (!take_byte(reader, '{'))
        return false;
    for (int field; (field = next_field(&fields, reader)) != NO_FIELD;) {
        if (field == NOT_SURE || (field == 1 && peek(reader) != 'n'))
            return false;
        Mark *mark = &marks[field == 0 ? CONTENT : REFUSAL];
        *mark = NONE;
        if (peek(reader) == 'n') {
            if (!take_null(reader))
                return false;
            continue;
        }
        if (!take_list(choice, reader, scratch, count, take_entry))
            return false;
        *mark = mark_of(*count);
        choice->has_texts |= *count > 0;
    }
    return true;
}
