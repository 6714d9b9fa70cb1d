/* A chunk: what an event has of one choice. */
#include "events.h"

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
    PROMPT_LOGPROBS
};

static const Field CHAT_CHUNK[] = {
    FIELD("index"),        FIELD("finish_reason"),  FIELD("stop_reason"), FIELD("token_ids"),
    FIELD("matched_stop"), FIELD("routed_experts"), FIELD("delta"),       FIELD("logprobs"),
};

static const Field COMPLETION_CHUNK[] = {
    FIELD("index"),        FIELD("finish_reason"),    FIELD("stop_reason"),
    FIELD("token_ids"),    FIELD("matched_stop"),     FIELD("routed_experts"),
    FIELD("text"),         FIELD("logprobs"),         FIELD("prompt_token_ids"),
    FIELD("prompt_logprobs"),
};

const End ENDS[4] = {
    {FINISH_REASON, FIELD("finish_reason")},
    {STOP_REASON, FIELD("stop_reason")},
    {MATCHED_STOP, FIELD("matched_stop")},
    {ROUTED_EXPERTS, FIELD("routed_experts")},
};

enum { ROLE, SAID_CONTENT, SAID_REFUSAL, REASONING, REASONING_CONTENT, TOOL_CALLS };

static const Field DELTA[] = {FIELD("role"),      FIELD("content"),           FIELD("refusal"),
                              FIELD("reasoning"), FIELD("reasoning_content"), FIELD("tool_calls")};

static bool take_role(Choice *choice, Reader *reader, Out *scratch)
{
    Slice role;
    if (!take_text(reader, scratch, &role))
        return false;
    if (role.size == 0)
        return true;
    if (choice->role.size == 0)
        return out_put(&choice->role, role.data, role.size);
    choice->contradicts |= choice->role.size != role.size ||
                            !same_bytes(choice->role.data, role.data, role.size);
    return true;
}

static bool take_fragments(ToolCalls *calls, Reader *reader, Out *scratch)
{
    bool first = true, ended;
    if (!take_byte(reader, '['))
        return false;
    for (;;) {
        if (!next_item(reader, ']', &first, &ended))
            return false;
        if (ended)
            return true;
        if (!take_fragment(calls, reader, scratch))
            return false;
    }
}

static bool take_delta(Answer *answer, Choice *choice, Reader *reader)
{
    Fields fields = FIELDS_IN_ORDER(DELTA, &answer->delta_order);
    Out *scratch = &answer->scratch;
    if (!take_byte(reader, '{'))
        return false;
    for (int field; (field = next_field(&fields, reader)) != NO_FIELD;) {
        if (field == NOT_SURE)
            return false;
        if (peek(reader) == 'n') {
            if (!take_null(reader))
                return false;
            continue;
        }
        if (field == ROLE) {
            if (!take_role(choice, reader, scratch))
                return false;
        } else if (field == TOOL_CALLS) {
            if (!take_fragments(&choice->tools, reader, scratch))
                return false;
        } else {
            choice->has_content |= field == SAID_CONTENT;
            if (!append_escaped(reader, &choice->said[field - SAID_CONTENT]))
                return false;
        }
    }
    return true;
}

/* Keeps how a choice ended, if a chunk says so. */
static bool keep_ends(Choice *choice, const Out *work, const Piece *pieces)
{
    bool any = false;
    for (int place = 0; place < 4; place++)
        any |= pieces[place].size && !is_falsy(slice_of(work, pieces[place]));
    for (int place = 0; any && place < 4; place++) {
        Slice slice = slice_of(work, pieces[place]);
        if (slice.size == 0 || slice_is(slice, "null"))
            continue;
        choice->ends[place].size = 0;
        if (!out_put(&choice->ends[place], slice.data, slice.size))
            return false;
    }
    return true;
}

static bool copy_end(Reader *reader, int field, Out *work)
{
    int64_t number;
    uint8_t next = peek(reader);
    const uint8_t *from = reader->at;
    if (next == 'n' || field == MATCHED_STOP || field == ROUTED_EXPERTS)
        return copy_value(reader, work, 1);
    if (next == '"')
        return copy_text(reader, work);
    return field == STOP_REASON && take_integer(reader, &number) &&
           out_put(work, from, (size_t)(reader->at - from));
}

static bool keep_finish(Choice *choice, Slice reason)
{
    Reader reader = {reason.data, reason.data + reason.size};
    if (is_falsy(reason) || slice_is(reason, "\"null\""))
        return true; /* it goes on */
    choice->finish.size = 0;
    return append_text(&reader, &choice->finish);
}

bool find_index(Reader reader, int32_t *index, bool *known)
{
    bool first = true, ended;
    Slice key;
    *index = 0;
    *known = false;
    for (;;) {
        if (!next_item(&reader, '}', &first, &ended))
            return false;
        if (ended)
            return true;
        if (!take_key(&reader, &key))
            return false;
        if (slice_is(key, "index"))
            return *known = take_id(&reader, index);
        if (!skip_value(&reader))
            return false;
    }
}

static Choice *choice_at(Answer *answer, int32_t index)
{
    for (size_t place = answer->count; place > 0; place--)
        if (answer->choices[place - 1].index == index)
            return &answer->choices[place - 1];
    return add_choice(answer, index);
}

static bool take_chunk_field(Answer *answer, Choice *choice, Reader *reader, int field,
                             size_t *counts, bool *scored)
{
    Mark mark = NONE;
    size_t before = choice->ids.size;
    int32_t index;
    bool is_null = peek(reader) == 'n';
    switch (field) {
    case INDEX: return take_id(reader, &index);
    case SAID:
        if (answer->chat)
            return take_delta(answer, choice, reader);
        return is_null ? take_null(reader) : append_escaped(reader, &choice->said[0]);
    case TOKEN_IDS:
        if (!(is_null ? take_null(reader) : take_ids(reader, &choice->ids, &mark)))
            return false;
        counts[0] = choice->ids.size - before;
        add_mark(&choice->ids_mark, mark);
        return true;
    case PROMPT_TOKEN_IDS:
        if (!(is_null ? take_null(reader) : take_ids(reader, &choice->prompt, &mark)))
            return false;
        add_mark(&choice->prompt_mark, mark);
        return true;
    case PROMPT_LOGPROBS:
        if (!(is_null ? take_null(reader)
                      : choice->prompt_logprobs.size == 0 &&
                            take_prompt_logprobs(reader, &choice->prompt_logprobs, &mark)))
            return false;
        add_mark(&choice->prompt_logprobs_mark, mark);
        return true;
    default: break; /* LOGPROBS */
    }
    if (is_null)
        return take_null(reader);
    Mark marks[SCORE_FIELDS] = {UNSET};
    *scored = choice->has_scores = true;
    if (!(answer->chat ? take_chat_scores : take_completion_scores)(
            choice, reader, &answer->scratch, marks, &counts[1]))
        return false;
    for (int place = 0; place < SCORE_FIELDS; place++)
        if (marks[place] != UNSET)
            add_mark(&choice->score_marks[place], marks[place]);
    return true;
}

bool take_chunk(Answer *answer, Reader *reader)
{
    Fields chat = FIELDS_IN_ORDER(CHAT_CHUNK, &answer->chunk_order);
    Fields completion = FIELDS_IN_ORDER(COMPLETION_CHUNK, &answer->chunk_order);
    Fields *fields = answer->chat ? &chat : &completion;
    Piece ends[4] = {{0, 0}};
    Out *work = &answer->work;
    size_t counts[2] = {0, 0};
    bool scored = false, known;
    int32_t index;
    if (!take_byte(reader, '{') || !find_index(*reader, &index, &known))
        return false;
    Choice *choice = choice_at(answer, index);
    if (choice == NULL)
        return false;
    work->size = 0;
    for (int field; (field = next_field(fields, reader)) != NO_FIELD;) {
        int end = 0;
        if (field == NOT_SURE)
            return false;
        while (end < 4 && ENDS[end].field != field)
            end++;
        if (end == 4) {
            if (!take_chunk_field(answer, choice, reader, field, counts, &scored))
                return false;
            continue;
        }
        size_t from = work->size;
        if (!copy_end(reader, field, work))
            return false;
        ends[end] = (Piece){from, work->size - from};
    }
    choice->chunks++;
    choice->counts_differ |= counts[0] / sizeof(int32_t) != counts[1];
    Slice finish = slice_of(work, ends[0]);
    return keep_ends(choice, work, ends) && (finish.size == 0 || keep_finish(choice, finish));
}
