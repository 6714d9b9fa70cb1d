/* The logprobs of a completion: lists with one item for each token. */
#include "logprobs.h"

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
