/* The numbers of one choice. */
#include "answer.h"

#include <float.h>
#include <stdlib.h>

#define UNKNOWN_LOGPROB (-9999.0) /* as in verdict.py */
#define MAX_LOGPROB 1e-3

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

/* Passes by a comma that a digit follows, as in the lists that engines write. */
static inline bool is_digit_after_comma(Reader *reader)
{
    if (reader->end - reader->at < 2 || reader->at[0] != ',' || !is_digit(reader->at[1]))
        return false;
    reader->at++;
    return true;
}

bool take_ids(Reader *reader, Out *ids, Mark *mark)
{
    bool first = true, ended;
    size_t before = ids->size;
    int32_t id;
    if (!take_byte(reader, '['))
        return false;
    for (;;) {
        if (!next_item(reader, ']', &first, &ended))
            return false;
        if (ended)
            break;
        do
            if (!take_id(reader, &id) || !out_put(ids, &id, sizeof id))
                return false;
        while (is_digit_after_comma(reader));
    }
    *mark = mark_of(ids->size - before);
    return true;
}

bool take_prompt_logprobs(Reader *reader, Out *kept, Mark *mark)
{
    size_t before = kept->size;
    if (peek(reader) != '[' || !copy_value(reader, kept, 1))
        return false;
    *mark = mark_of(kept->size - before - 2);
    if (*mark == EMPTY)
        kept->size = before;
    return true;
}

static bool put_packed_text(Choice *choice, Slice text)
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

/* Reads back what put_packed_text has put. */
static Slice next_packed_text(const uint8_t **at)
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

/* Reads a number or null as Python makes a float of it. */
static bool take_value(Reader *reader, bool *is_null, double *value)
{
    Decimal decimal;
    *is_null = peek(reader) == 'n';
    if (*is_null)
        return take_null(reader);
    if (!take_decimal(reader, &decimal) || !decimal_value(&decimal, value))
        return false;
    return decimal.digits || decimal.is_float || !decimal.negative; /* not -0 */
}

static bool append_value(Choice *choice, Reader *reader)
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

/* Chat has an entry for each token. */

enum { TOKEN, LOGPROB, BYTES, ENTRY_TOPS, ENTRY_ID };

static const Field ENTRY[] = {FIELD("token"), FIELD("logprob"), FIELD("bytes"),
                              FIELD("top_logprobs"), FIELD("id")};

typedef enum { REGULAR, IRREGULAR, FAILED } Kind;

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

static bool is_empty_list(Reader *reader)
{
    return take_byte(reader, '[') && take_byte(reader, ']');
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

static bool take_list(Choice *choice, Reader *reader, Out *scratch, size_t *count,
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

/* Completions have lists with one item for each token. */

static bool take_token(Choice *choice, Reader *reader, Out *scratch)
{
    Slice text;
    if (!take_text(reader, scratch, &text) || !put_packed_text(choice, text))
        return false;
    return true;
}

static bool take_token_logprob(Choice *choice, Reader *reader, Out *scratch)
{
    (void)scratch;
    return append_value(choice, reader);
}

static const Field SCORES[] = {FIELD("tokens"), FIELD("token_logprobs"), FIELD("text_offset"),
                               FIELD("top_logprobs"), FIELD("content")};

/* Copies offsets, and notes whether they are other than the texts' lengths tell. */
static bool copy_offsets(Choice *choice, Reader *reader, const uint8_t *texts, size_t *count)
{
    Out *out = &choice->offsets;
    bool first = true, ended;
    int64_t offset;
    if (!take_byte(reader, '['))
        return false;
    for (*count = 0;; ++*count) {
        if (!next_item(reader, ']', &first, &ended))
            return false;
        if (ended)
            return true;
        skip_space(reader);
        const uint8_t *from = reader->at;
        if (choice->offset_count + *count >= choice->text_count || !take_integer(reader, &offset))
            return false;
        if ((out->size && !out_byte(out, ',')) ||
            !out_put(out, from, (size_t)(reader->at - from)))
            return false;
        choice->odd_offsets |= offset < 0 || (uint64_t)offset != choice->characters;
        Slice text = next_packed_text(&texts);
        for (size_t place = 0; place < text.size; place++)
            choice->characters += (text.data[place] & 0xC0) != 0x80;
    }
}

/* Whether an object has the text alone, with the value: FAILED if Python may see that otherwise. */
static Kind is_sampled(Reader reader, Out *scratch, Slice text, Reader value)
{
    Slice key;
    bool first = true, ended, null_here, null_there;
    double here, there;
    if (!take_byte(&reader, '{') || !next_item(&reader, '}', &first, &ended))
        return FAILED;
    if (ended)
        return IRREGULAR;
    if (!take_text(&reader, scratch, &key) || !take_byte(&reader, ':'))
        return FAILED;
    if (key.size != text.size || !same_bytes(key.data, text.data, key.size))
        return IRREGULAR;
    if (!take_value(&reader, &null_here, &here) || !take_value(&value, &null_there, &there))
        return FAILED;
    if (null_here != null_there || (!null_here && here != there))
        return IRREGULAR;
    return take_byte(&reader, '}') ? REGULAR : IRREGULAR;
}

static bool copy_tops(Choice *choice, Reader *reader, Out *scratch, const uint8_t *texts,
                      size_t *count)
{
    Out *out = &choice->tops;
    bool first = true, ended;
    if (!take_byte(reader, '['))
        return false;
    for (*count = 0;; ++*count) {
        if (!next_item(reader, ']', &first, &ended))
            return false;
        if (ended)
            return true;
        size_t place = choice->top_count + *count;
        if (place >= choice->text_count || (place + 1) * sizeof(void *) > choice->places.size)
            return false;
        Reader value = {NULL, reader->end};
        memcpy(&value.at, choice->places.data + place * sizeof(void *), sizeof(void *));
        Kind kind = is_sampled(*reader, scratch, next_packed_text(&texts), value);
        choice->odd_tops |= kind == IRREGULAR;
        if (kind == FAILED || (out->size && !out_byte(out, ',')) || !copy_value(reader, out, 2))
            return false;
    }
}

bool take_completion_scores(Choice *choice, Reader *reader, Out *scratch, Mark *marks,
                            size_t *count)
{
    Fields fields = FIELDS(SCORES);
    Reader offsets = {NULL, reader->end}, tops = {NULL, reader->end};
    const uint8_t *offsets_end = NULL, *tops_end = NULL;
    size_t before = choice->text_count, texts_from = choice->texts.size, found, scored = 0;
    if (!take_byte(reader, '{'))
        return false;
    for (int field; (field = next_field(&fields, reader)) != NO_FIELD;) {
        if (field == NOT_SURE)
            return false;
        marks[field] = NONE;
        if (peek(reader) == 'n') {
            if (!take_null(reader))
                return false;
            continue;
        }
        if (field == TOKENS) {
            if (!take_list(choice, reader, scratch, &found, take_token))
                return false;
        } else if (field == TOKEN_LOGPROBS) {
            if (!take_list(choice, reader, scratch, &scored, take_token_logprob))
                return false;
            found = scored;
        } else if (field == CONTENT) {
            if (!is_empty_list(reader))
                return false;
            found = 0;
        } else { /* read when texts and values are known */
            (field == TEXT_OFFSET ? &offsets : &tops)->at = reader->at;
            if (!skip_value(reader))
                return false;
            *(field == TEXT_OFFSET ? &offsets_end : &tops_end) = reader->at;
            continue;
        }
        marks[field] = mark_of(found);
    }
    *count = scored;
    choice->has_texts = true;
    size_t texts = choice->text_count - before;
    const uint8_t *first = choice->texts.data == NULL ? NULL : choice->texts.data + texts_from;
    /* Texts of earlier chunks without these lists have no item in them. */
    if (texts != scored || (offsets.at != NULL && choice->offset_count != before) ||
        (tops.at != NULL && choice->top_count != before))
        return false;
    if (offsets.at != NULL) {
        choice->has_offsets = true;
        if (!copy_offsets(choice, &offsets, first, &found) || offsets.at != offsets_end)
            return false;
        choice->offset_count += found;
        marks[TEXT_OFFSET] = mark_of(found);
    }
    if (tops.at != NULL) {
        choice->has_tops = true;
        if (!copy_tops(choice, &tops, scratch, first, &found) || tops.at != tops_end)
            return false;
        choice->top_count += found;
        marks[TOP_LOGPROBS] = mark_of(found);
    }
    /* Chunks with and without these lists are left to Python. */
    return (!choice->has_offsets || choice->offset_count == choice->text_count) &&
           (!choice->has_tops || choice->top_count == choice->text_count);
}

bool settle_choice(Choice *choice, bool chat)
{
    size_t ids = choice->ids.size / sizeof(int32_t), values = choice->values.size / sizeof(float);
    size_t prompt = choice->prompt.size / sizeof(int32_t);
    if (!chat && prompt && choice->has_texts && values == prompt + ids)
        return false; /* an echoed prompt */
    if (ids != values || (chat && values == 0) || (!chat && !choice->has_texts))
        choice->counts_differ = false; /* what single chunks lack says nothing */
    if (chat && ids == 0 && choice->irregular && !choice->lacks_id) {
        Out none = choice->ids;
        choice->ids = choice->entry_ids;
        choice->entry_ids = none;
    }
    return true;
}

static bool begin_extra(Out *extra, const char *name)
{
    return out_byte(extra, extra->size ? ',' : '{') && out_byte(extra, '"') &&
           out_put(extra, name, strlen(name)) && out_text(extra, "\":");
}

static bool write_list(Out *extra, const char *name, const Out *items)
{
    return begin_extra(extra, name) && out_byte(extra, '[') &&
           out_put(extra, items->data, items->size) && out_byte(extra, ']');
}

static bool write_values(const Choice *choice, const uint8_t *end, Out *extra)
{
    Reader reader = {NULL, end};
    Decimal decimal;
    if (!begin_extra(extra, "logprobs") || !out_byte(extra, '['))
        return false;
    for (size_t place = 0; place < choice->places.size; place += sizeof reader.at) {
        memcpy(&reader.at, choice->places.data + place, sizeof reader.at);
        if (place && !out_byte(extra, ','))
            return false;
        if (*reader.at == 'n') {
            if (!out_text(extra, "null"))
                return false;
        } else if (!take_decimal(&reader, &decimal) || !write_float(&decimal, extra)) {
            return false;
        }
    }
    return out_byte(extra, ']');
}

bool write_extra(const Choice *choice, const Answer *answer, Out *extra)
{
    bool first = choice == answer->choices;
    if (choice->inexact && !write_values(choice, answer->end, extra))
        return false;
    if (choice->irregular && !write_list(extra, "content", &choice->content))
        return false;
    if (choice->has_offsets && choice->odd_offsets &&
        !write_list(extra, "text_offset", &choice->offsets))
        return false;
    if (choice->has_tops && choice->odd_tops && !write_list(extra, "top_logprobs", &choice->tops))
        return false;
    const Out *prompts = answer->chat && first ? &answer->prompt_logprobs : &choice->prompt_logprobs;
    if (prompts->size && !(begin_extra(extra, "prompt_logprobs") &&
                           out_put(extra, prompts->data, prompts->size)))
        return false;
    return extra->size == 0 || out_byte(extra, '}');
}
