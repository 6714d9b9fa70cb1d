/* Writes the skeleton of a stream: the plain answer that its events amount to, without lists. */
#include "events.h"

static bool put_field(Out *out, const Field *field, const Out *value)
{
    return out_byte(out, ',') && put_name(out, field) &&
           (value->size ? out_put(out, value->data, value->size) : out_text(out, "null"));
}

static bool put_quoted(Out *out, const char *name, const Out *escaped)
{
    return out_text(out, ",\"") && out_put(out, name, strlen(name)) && out_text(out, "\":\"") &&
           out_put(out, escaped->data, escaped->size) && out_byte(out, '"');
}

static bool put_marked(Out *out, const char *name, Mark mark)
{
    if (mark == UNSET)
        return true;
    return out_text(out, ",\"") && out_put(out, name, strlen(name)) && out_text(out, "\":") &&
           (mark == NONE ? out_text(out, "null") : out_text(out, "[]"));
}

static bool put_message(const Choice *choice, Out *out)
{
    static const char *const names[] = {"content", "refusal", "reasoning", "reasoning_content"};
    static const char assistant[] = "assistant";
    bool known = choice->role.size > 0;
    if (!out_text(out, ",\"message\":{\"role\":\"") ||
        !escape_text(known ? (Slice){choice->role.data, choice->role.size}
                           : (Slice){(const uint8_t *)assistant, sizeof assistant - 1},
                     out) ||
        !out_byte(out, '"'))
        return false;
    if (!(choice->has_content ? put_quoted(out, "content", &choice->said[0])
                              : out_text(out, ",\"content\":null")))
        return false;
    for (int place = 1; place < 4; place++)
        if (choice->said[place].size && !put_quoted(out, names[place], &choice->said[place]))
            return false;
    if (choice->tools.count && !(out_text(out, ",\"tool_calls\":[") &&
                                 put_calls(&choice->tools, out) && out_byte(out, ']')))
        return false;
    return out_byte(out, '}');
}

static bool put_scores(const Choice *choice, bool chat, Out *out)
{
    static const char *const names[] = {"tokens", "token_logprobs", "text_offset", "top_logprobs",
                                        "content"};
    if (!choice->has_scores)
        return out_text(out, ",\"logprobs\":null");
    if (!out_text(out, ",\"logprobs\":"))
        return false;
    size_t from = out->size;
    for (int place = chat ? CONTENT : TOKENS; place <= CONTENT; place++)
        if (!put_marked(out, names[place], choice->score_marks[place]))
            return false;
    if (out->size == from)
        return out_text(out, "{}");
    out->data[from] = '{'; /* in place of the first comma */
    return out_byte(out, '}');
}

static bool put_choice(const Choice *choice, bool chat, Out *out)
{
    char index[24];
    int size = 0;
    uint32_t number = (uint32_t)choice->index;
    do
        index[sizeof index - 1 - (size_t)size++] = (char)('0' + number % 10);
    while (number /= 10);
    if (!out_text(out, "{\"index\":") ||
        !out_put(out, index + sizeof index - (size_t)size, (size_t)size))
        return false;
    if (!(chat ? put_message(choice, out) : put_quoted(out, "text", &choice->said[0])) ||
        !put_scores(choice, chat, out))
        return false;
    for (int place = 0; place < 4; place++)
        if (!put_field(out, &ENDS[place].name, &choice->ends[place]))
            return false;
    if (!put_marked(out, "token_ids", choice->ids_mark))
        return false;
    return (chat || (put_marked(out, "prompt_token_ids", choice->prompt_mark) &&
                     put_marked(out, "prompt_logprobs", choice->prompt_logprobs_mark))) &&
           out_byte(out, '}');
}

bool put_skeleton(Answer *answer, const Outside *outside)
{
    static const int order[] = {ID,          CREATED,            MODEL,       OBJECT, USAGE,
                                PROMPT_TEXT, SYSTEM_FINGERPRINT, SERVICE_TIER};
    Out *out = &answer->skeleton;
    for (size_t place = 0; place < sizeof order / sizeof *order; place++) {
        int field = order[place];
        const Out *value = &outside->fields[field];
        if (field == OBJECT) {
            if (!(answer->chat ? out_text(out, ",\"object\":\"chat.completion\"")
                               : out_text(out, ",\"object\":\"text_completion\"")))
                return false;
        } else if (value->size && !put_field(out, &EVENT[field], value)) {
            return false;
        }
    }
    out->data[0] = '{';
    if (!out_text(out, ",\"choices\":["))
        return false;
    for (size_t place = 0; place < answer->count; place++)
        if ((place && !out_byte(out, ',')) || !put_choice(&answer->choices[place], answer->chat, out))
            return false;
    if (!out_byte(out, ']') ||
        (answer->prompt.size && !out_text(out, ",\"prompt_token_ids\":[]")))
        return false;
    return out_byte(out, '}');
}
