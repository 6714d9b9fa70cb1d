/* Streams: the events of an answer, put together as streams.py does. */
#include "events.h"

const Field EVENT[EVENT_FIELDS] = {
    FIELD("id"),           FIELD("object"),           FIELD("created"),
    FIELD("model"),        FIELD("usage"),            FIELD("prompt_text"),
    FIELD("system_fingerprint"), FIELD("service_tier"), FIELD("prompt_token_ids"),
    FIELD("choices"),
};

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

/* Whether an event begins as an earlier one did: passes that by, up to the value of its choices. */
static bool is_alike(const Outside *outside, Fields *fields, Reader *reader)
{
    Slice before = outside->before;
    if (before.size == 0 || (size_t)(reader->end - reader->at) < before.size ||
        memcmp(reader->at, before.data, before.size) != 0)
        return false;
    reader->at += before.size;
    fields->seen = outside->seen;
    fields->last = CHOICES + 1;
    fields->first = false;
    return true;
}

static void keep_beginning(Outside *outside, const Fields *fields, const uint8_t *from,
                           const uint8_t *at)
{
    if (fields->seen >> (MODEL + 1) == UINT32_C(1) << (CHOICES - MODEL - 1)) {
        outside->before = (Slice){from, (size_t)(at - from)};
        outside->seen = fields->seen;
    }
}

static bool take_event(Answer *answer, Outside *outside, Reader *reader, bool is_first)
{
    Fields fields = FIELDS_IN_ORDER(EVENT, &answer->event_order);
    const uint8_t *from = reader->at;
    Piece places[EVENT_FIELDS] = {{0, 0}};
    Mark prompt = UNSET;
    Out *pieces = &answer->pieces;
    pieces->size = 0;
    if (is_alike(outside, &fields, reader)) {
        if (!take_chunks(answer, reader))
            return false;
    } else if (!take_byte(reader, '{')) {
        return false;
    }
    for (int field; (field = next_field(&fields, reader)) != NO_FIELD;) {
        if (field == NOT_SURE)
            return false;
        if (field == CHOICES) {
            keep_beginning(outside, &fields, from, reader->at);
            if (!take_chunks(answer, reader))
                return false;
            continue;
        }
        if (field == EVENT_PROMPT_IDS) {
            if (!(peek(reader) == 'n' ? take_null(reader) : take_prompt(answer, reader, &prompt)))
                return false;
            continue;
        }
        size_t begun = pieces->size;
        if (!copy_event_field(reader, field, pieces))
            return false;
        places[field] = (Piece){begun, pieces->size - begun};
    }
    bool marked = prompt == FULL;
    for (int field = USAGE; field <= SERVICE_TIER; field++)
        marked |= places[field].size && !is_falsy(slice_of(pieces, places[field]));
    return at_end(reader) && keep_outside(outside, pieces, places, is_first, marked);
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
    Outside outside = {{{NULL, 0, 0}}, {NULL, 0}, 0};
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
