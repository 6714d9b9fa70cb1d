/* What a choice has beside its logprobs: token ids, and at its end what `extra` tells. */
#include "answer.h"

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
