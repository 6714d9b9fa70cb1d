/* Plain answers. The skeleton is what msgspec writes of the structs of structs.py: known fields
 * alone, in the order of the structs, without the lists that are kept apart. */
#include "answer.h"

typedef struct {
    size_t from, size;
    bool present;
} Piece;

/* Writes the pieces as fields of an object in the order of the table. */
static bool write_object(const Field *fields, const Piece *pieces, unsigned count, const Out *from,
                         Out *out)
{
    bool first = true;
    if (!out_byte(out, '{'))
        return false;
    for (unsigned place = 0; place < count; place++) {
        if (!pieces[place].present)
            continue;
        if ((!first && !out_byte(out, ',')) || !put_name(out, &fields[place]) ||
            !out_put(out, from->data + pieces[place].from, pieces[place].size))
            return false;
        first = false;
    }
    return out_byte(out, '}');
}

static bool put_mark(Out *out, Mark mark)
{
    return mark == NONE ? out_text(out, "null") : out_text(out, "[]");
}

enum {
    INDEX,
    FINISH_REASON,
    STOP_REASON,
    TOKEN_IDS,
    MATCHED_STOP,
    ROUTED_EXPERTS,
    SAID,
    LOGPROBS,
    PROMPT_TOKEN_IDS,
    PROMPT_LOGPROBS,
    CHOICE_FIELDS
};

static const Field CHAT_CHOICE[] = {
    FIELD("index"),        FIELD("finish_reason"),  FIELD("stop_reason"), FIELD("token_ids"),
    FIELD("matched_stop"), FIELD("routed_experts"), FIELD("message"),     FIELD("logprobs"),
};

static const Field COMPLETION_CHOICE[] = {
    FIELD("index"),        FIELD("finish_reason"),    FIELD("stop_reason"),
    FIELD("token_ids"),    FIELD("matched_stop"),     FIELD("routed_experts"),
    FIELD("text"),         FIELD("logprobs"),         FIELD("prompt_token_ids"),
    FIELD("prompt_logprobs"),
};

static const Field SCORE_NAMES[] = {FIELD("tokens"),       FIELD("token_logprobs"),
                                    FIELD("text_offset"),  FIELD("top_logprobs"),
                                    FIELD("content"),      FIELD("refusal")};

static bool copy_scores(Answer *answer, Choice *choice, Reader *reader, Out *out)
{
    Mark marks[SCORE_FIELDS] = {UNSET};
    size_t count;
    bool first = true;
    if (!(answer->chat ? take_chat_scores : take_completion_scores)(choice, reader,
                                                                   &answer->scratch, marks, &count))
        return false;
    if (!out_byte(out, '{'))
        return false;
    for (int place = 0; place < SCORE_FIELDS; place++) {
        if (marks[place] == UNSET)
            continue;
        if ((!first && !out_byte(out, ',')) || !put_name(out, &SCORE_NAMES[place]) ||
            !put_mark(out, marks[place]))
            return false;
        first = false;
    }
    return out_byte(out, '}');
}

static bool copy_finish(Choice *choice, Reader *reader, Out *out)
{
    Reader again = *reader;
    return copy_text(reader, out) && append_text(&again, &choice->finish);
}

static bool copy_choice_field(Answer *answer, Choice *choice, Reader *reader, int field, Out *out)
{
    int32_t index;
    int64_t number;
    Mark mark = NONE;
    uint8_t next = peek(reader);
    const uint8_t *from = reader->at;
    if (field == INDEX) {
        if (!take_id(reader, &index))
            return false;
        choice->index = index;
        return out_put(out, from, (size_t)(reader->at - from));
    }
    if (next == 'n')
        return take_null(reader) && out_text(out, "null");
    switch (field) {
    case FINISH_REASON: return copy_finish(choice, reader, out);
    case STOP_REASON:
        if (next == '"')
            return copy_text(reader, out);
        return take_integer(reader, &number) && out_put(out, from, (size_t)(reader->at - from));
    case TOKEN_IDS: return take_ids(reader, &choice->ids, &mark) && put_mark(out, mark);
    case SAID:
        return answer->chat ? copy_value(reader, out, 1) : copy_text(reader, out);
    case LOGPROBS: return copy_scores(answer, choice, reader, out);
    case PROMPT_TOKEN_IDS: return take_ids(reader, &choice->prompt, &mark) && put_mark(out, mark);
    case PROMPT_LOGPROBS:
        return take_prompt_logprobs(reader, &choice->prompt_logprobs, &mark) && put_mark(out, mark);
    default: return copy_value(reader, out, 1);
    }
}

static bool copy_choice(Answer *answer, Reader *reader, Out *out)
{
    Fields chat = FIELDS(CHAT_CHOICE), completion = FIELDS(COMPLETION_CHOICE);
    Fields *fields = answer->chat ? &chat : &completion;
    Piece pieces[CHOICE_FIELDS] = {{0, 0, false}};
    Choice *choice = add_choice(answer, (int32_t)answer->count);
    Out *inner = &answer->inner;
    inner->size = 0;
    if (choice == NULL || !take_byte(reader, '{'))
        return false;
    for (int field; (field = next_field(fields, reader)) != NO_FIELD;) {
        if (field == NOT_SURE)
            return false;
        size_t from = inner->size;
        if (!copy_choice_field(answer, choice, reader, field, inner))
            return false;
        pieces[field] = (Piece){from, inner->size - from, true};
    }
    choice->chunks = 1;
    return settle_choice(choice, answer->chat) &&
           write_object(fields->fields, pieces, fields->count, inner, out);
}

enum {
    ID,
    OBJECT,
    CREATED,
    MODEL,
    USAGE,
    ANSWER_PROMPT_IDS,
    PROMPT_TEXT,
    SYSTEM_FINGERPRINT,
    SERVICE_TIER,
    ANSWER_PROMPT_LOGPROBS,
    KV_TRANSFER_PARAMS,
    EC_TRANSFER_PARAMS,
    METRICS,
    METADATA,
    WEIGHT_VERSION,
    CHOICES,
    ANSWER_FIELDS
};

static const Field ANSWER[] = {
    FIELD("id"),
    FIELD("object"),
    FIELD("created"),
    FIELD("model"),
    FIELD("usage"),
    FIELD("prompt_token_ids"),
    FIELD("prompt_text"),
    FIELD("system_fingerprint"),
    FIELD("service_tier"),
    FIELD("prompt_logprobs"),
    FIELD("kv_transfer_params"),
    FIELD("ec_transfer_params"),
    FIELD("metrics"),
    FIELD("metadata"),
    FIELD("weight_version"),
    FIELD("choices"),
};

static bool copy_choices(Answer *answer, Reader *reader, Out *out)
{
    bool first = true, ended;
    if (!take_byte(reader, '[') || !out_byte(out, '['))
        return false;
    for (;;) {
        bool before = first;
        if (!next_item(reader, ']', &first, &ended))
            return false;
        if (ended)
            return answer->count > 0 && out_byte(out, ']');
        if ((!before && !out_byte(out, ',')) || !copy_choice(answer, reader, out))
            return false;
    }
}

static bool copy_named(Reader *reader, Out *out, Out *text)
{
    Reader again = *reader;
    return copy_text(reader, out) && append_text(&again, text);
}

static bool copy_answer_field(Answer *answer, Reader *reader, int field, Out *out)
{
    Mark mark = NONE;
    uint8_t next = peek(reader);
    if (field == CHOICES)
        return copy_choices(answer, reader, out);
    if (next == 'n')
        return take_null(reader) && out_text(out, "null");
    switch (field) {
    case ID: return copy_named(reader, out, &answer->id);
    case MODEL: return copy_named(reader, out, &answer->model);
    case CREATED: return next != '"' && next != '{' && next != '[' && next != 't' && next != 'f' &&
                         copy_value(reader, out, 1);
    case USAGE: return next == '{' && copy_value(reader, out, 1);
    case ANSWER_PROMPT_IDS:
        /* A completion has its prompts in the choices. */
        return answer->chat && take_ids(reader, &answer->prompt, &mark) && put_mark(out, mark);
    case ANSWER_PROMPT_LOGPROBS:
        return answer->chat && take_prompt_logprobs(reader, &answer->prompt_logprobs, &mark) &&
               put_mark(out, mark);
    case KV_TRANSFER_PARAMS:
    case EC_TRANSFER_PARAMS:
    case METRICS:
    case METADATA:
    case WEIGHT_VERSION: return copy_value(reader, out, 1);
    default: return copy_text(reader, out);
    }
}

/* The fields that may have a version of weights, as an object of their own. */
static bool keep_stamped(Answer *answer, const Piece *pieces)
{
    Piece stamped[ANSWER_FIELDS] = {{0, 0, false}};
    if (!pieces[METADATA].present && !pieces[WEIGHT_VERSION].present)
        return true;
    stamped[METADATA] = pieces[METADATA];
    stamped[WEIGHT_VERSION] = pieces[WEIGHT_VERSION];
    return write_object(ANSWER, stamped, ANSWER_FIELDS, &answer->pieces, &answer->stamped);
}

bool read_plain(Answer *answer, Slice body)
{
    Fields fields = FIELDS(ANSWER);
    Piece pieces[ANSWER_FIELDS] = {{0, 0, false}};
    Reader reader = {body.data, body.data + body.size};
    Out *kept = &answer->pieces;
    answer->end = reader.end;
    if (!take_byte(&reader, '{'))
        return false;
    for (int field; (field = next_field(&fields, &reader)) != NO_FIELD;) {
        if (field == NOT_SURE)
            return false;
        size_t from = kept->size;
        if (!copy_answer_field(answer, &reader, field, kept))
            return false;
        pieces[field] = (Piece){from, kept->size - from, true};
    }
    if (!pieces[CHOICES].present || !at_end(&reader))
        return false;
    Slice usage = {kept->data + pieces[USAGE].from, pieces[USAGE].size};
    if (usage.size && usage.data[0] == '{' && !out_put(&answer->usage, usage.data, usage.size))
        return false;
    answer->done = true;
    return keep_stamped(answer, pieces) &&
           write_object(ANSWER, pieces, ANSWER_FIELDS, kept, &answer->skeleton);
}
