/* Streams: the events of an answer, put together as streams.py does. */
#include "answer.h"

/* A chunk is what an event has of one choice. */

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

/* The fields that tell how a choice ended, in the order in which a skeleton has them. */
static const struct {
    int field;
    Field name;
} ENDS[4] = {
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

static bool take_delta(Choice *choice, Reader *reader, Out *scratch)
{
    Fields fields = FIELDS(DELTA);
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

typedef struct {
    size_t from, size;
} Piece;

static Slice slice_of(const Out *out, Piece piece)
{
    return (Slice){piece.size ? out->data + piece.from : NULL, piece.size};
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
            return take_delta(choice, reader, &answer->scratch);
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

static bool take_chunk(Answer *answer, Reader *reader)
{
    Fields chat = FIELDS(CHAT_CHUNK), completion = FIELDS(COMPLETION_CHUNK);
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

enum { ID, OBJECT, CREATED, MODEL, USAGE, PROMPT_TEXT, SYSTEM_FINGERPRINT, SERVICE_TIER,
       EVENT_PROMPT_IDS, CHOICES, EVENT_FIELDS };

static const Field EVENT[] = {
    FIELD("id"),           FIELD("object"),           FIELD("created"),
    FIELD("model"),        FIELD("usage"),            FIELD("prompt_text"),
    FIELD("system_fingerprint"), FIELD("service_tier"), FIELD("prompt_token_ids"),
    FIELD("choices"),
};

/* What the skeleton has of the events: FIRST of the first one, LAST of the last that has one. */
typedef struct {
    Out fields[EVENT_FIELDS];
} Outside;

static bool copy_event_field(Reader *reader, int field, Out *out)
{
    uint8_t next = peek(reader);
    if (next == 'n')
        return take_null(reader) && out_text(out, "null");
    if (field == USAGE)
        return next == '{' && copy_value(reader, out, 1);
    if (field == CREATED)
        return (next == '-' || (next >= '0' && next <= '9')) && copy_value(reader, out, 1);
    return copy_text(reader, out);
}

static bool take_chunks(Answer *answer, Reader *reader)
{
    bool first = true, ended;
    if (!take_byte(reader, '['))
        return false;
    for (;;) {
        if (!next_item(reader, ']', &first, &ended))
            return false;
        if (ended)
            return true;
        if (!take_chunk(answer, reader))
            return false;
    }
}

/* Reads the prompt of a chat, which is sent with the first event of each choice. */
static bool take_prompt(Answer *answer, Reader *reader, Mark *mark)
{
    Out *again = &answer->inner;
    if (!answer->chat)
        return false;
    if (answer->prompt.size == 0)
        return take_ids(reader, &answer->prompt, mark);
    again->size = 0;
    if (!take_ids(reader, again, mark))
        return false;
    return *mark == EMPTY || (again->size == answer->prompt.size &&
                              same_bytes(again->data, answer->prompt.data, again->size));
}

static bool keep_outside(Outside *outside, const Out *pieces, const Piece *places, bool first,
                         bool marked)
{
    for (int field = ID; field <= SERVICE_TIER; field++) {
        Slice slice = slice_of(pieces, places[field]);
        bool wanted = field <= MODEL ? first : marked;
        if (!wanted || slice.size == 0 || slice_is(slice, "null"))
            continue;
        outside->fields[field].size = 0;
        if (!out_put(&outside->fields[field], slice.data, slice.size))
            return false;
    }
    return true;
}

static bool take_event(Answer *answer, Outside *outside, Reader *reader, bool is_first)
{
    Fields fields = FIELDS(EVENT);
    Piece places[EVENT_FIELDS] = {{0, 0}};
    Mark prompt = UNSET;
    Out *pieces = &answer->pieces;
    pieces->size = 0;
    if (!take_byte(reader, '{'))
        return false;
    for (int field; (field = next_field(&fields, reader)) != NO_FIELD;) {
        if (field == NOT_SURE)
            return false;
        if (field == CHOICES) {
            if (!take_chunks(answer, reader))
                return false;
            continue;
        }
        if (field == EVENT_PROMPT_IDS) {
            if (!(peek(reader) == 'n' ? take_null(reader) : take_prompt(answer, reader, &prompt)))
                return false;
            continue;
        }
        size_t from = pieces->size;
        if (!copy_event_field(reader, field, pieces))
            return false;
        places[field] = (Piece){from, pieces->size - from};
    }
    bool marked = prompt == FULL;
    for (int field = USAGE; field <= SERVICE_TIER; field++)
        marked |= places[field].size && !is_falsy(slice_of(pieces, places[field]));
    return at_end(reader) && keep_outside(outside, pieces, places, is_first, marked);
}

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

static bool put_skeleton(Answer *answer, const Outside *outside)
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

static void sort_choices(Answer *answer)
{
    for (size_t place = 1; place < answer->count; place++)
        for (size_t at = place; at && answer->choices[at - 1].index > answer->choices[at].index; at--) {
            Choice other = answer->choices[at];
            answer->choices[at] = answer->choices[at - 1];
            answer->choices[at - 1] = other;
        }
}

static bool keep_text(const Out *quoted, Out *text)
{
    Reader reader = {quoted->data, quoted->data + quoted->size};
    return quoted->size == 0 || append_text(&reader, text);
}

static bool settle(Answer *answer, const Outside *outside)
{
    const Out *usage = &outside->fields[USAGE];
    if (answer->count == 0)
        return false;
    sort_choices(answer);
    for (size_t place = 0; place < answer->count; place++) {
        Choice *choice = &answer->choices[place];
        choice->contradicts |= lacks_name(&choice->tools);
        if (!settle_choice(choice, answer->chat))
            return false;
    }
    return put_skeleton(answer, outside) && keep_text(&outside->fields[ID], &answer->id) &&
           keep_text(&outside->fields[MODEL], &answer->model) &&
           out_put(&answer->usage, usage->data, usage->size);
}

/* The data of the next event, which is one line of its own. */
static bool next_data(Reader *body, Slice *data)
{
    if (body->end - body->at < 8 || memcmp(body->at, "data: ", 6) != 0)
        return false;
    const uint8_t *from = body->at + 6;
    const uint8_t *stop = memchr(from, '\n', (size_t)(body->end - from));
    if (stop == NULL || body->end - stop < 2 || stop[1] != '\n')
        return false;
    *data = (Slice){from, (size_t)(stop - from)};
    body->at = stop + 2;
    return true;
}

bool read_events(Answer *answer, Slice body)
{
    Outside outside = {{{NULL, 0, 0}}};
    Reader reader = {body.data, body.data + body.size};
    bool sure = body.size && memchr(body.data, '\r', body.size) == NULL, first = true;
    Slice data;
    answer->end = reader.end;
    while (sure && reader.at < reader.end) {
        sure = next_data(&reader, &data);
        if (!sure)
            break;
        answer->events++;
        if (slice_is(data, "[DONE]")) {
            answer->done = true;
            continue;
        }
        Reader event = {data.data, data.data + data.size};
        sure = take_event(answer, &outside, &event, first);
        first = false;
    }
    sure = sure && settle(answer, &outside);
    for (int field = 0; field < EVENT_FIELDS; field++)
        out_free(&outside.fields[field]);
    return sure;
}
