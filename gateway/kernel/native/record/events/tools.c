/* The tool calls of a stream, put together as tool_calls.py does if all fragments fit together:
 * each says to which call it belongs, and repeats no name. Others are left to Python. */
#include "record/answer.h"

#include <stdlib.h>

#define MAX_CALLS 64

enum { INDEX, ID, TYPE, FUNCTION, NAME, ARGUMENTS, CALL_FIELDS };

static const Field FRAGMENT[] = {FIELD("index"), FIELD("id"), FIELD("type"), FIELD("function")};
static const Field CALLED[] = {FIELD("name"), FIELD("arguments")};

/* A text as it is written in JSON, without quotes. */
typedef struct {
    Mark mark; /* UNSET, NONE for null, FULL */
    int place; /* among the fields of its object, in the order in which they came */
    Out text;
} Said;

struct ToolCall {
    int32_t index;
    int fields, called; /* how many have come */
    Said said[CALL_FIELDS];
};

void calls_free(ToolCalls *calls)
{
    for (size_t place = 0; place < calls->count; place++)
        for (int field = 0; field < CALL_FIELDS; field++)
            out_free(&calls->calls[place].said[field].text);
    free(calls->calls);
    memset(calls, 0, sizeof *calls);
}

static ToolCall *call_at(ToolCalls *calls, int32_t index)
{
    for (size_t place = 0; place < calls->count; place++)
        if (calls->calls[place].index == index)
            return &calls->calls[place];
    if (calls->count == MAX_CALLS)
        return NULL;
    ToolCall *more = realloc(calls->calls, (calls->count + 1) * sizeof *more);
    if (more == NULL)
        return NULL;
    calls->calls = more;
    ToolCall *call = &more[calls->count++];
    memset(call, 0, sizeof *call);
    call->index = index;
    return call;
}

static void note(Said *said, int *fields, Mark mark)
{
    if (said->mark == UNSET)
        said->place = (*fields)++;
    if (said->mark == UNSET || mark == FULL)
        said->mark = mark;
}

/* A field that is set only once. A fragment may repeat its value, not give another one. */
static bool take_once(Said *said, int *fields, Reader *reader, Out *scratch, bool may_repeat)
{
    bool is_null = peek(reader) == 'n';
    scratch->size = 0;
    if (!(is_null ? take_null(reader) : append_escaped(reader, scratch)))
        return false;
    note(said, fields, is_null ? NONE : FULL);
    if (is_null || scratch->size == 0)
        return true;
    if (said->text.size)
        return may_repeat && said->text.size == scratch->size &&
               same_bytes(said->text.data, scratch->data, scratch->size);
    return out_put(&said->text, scratch->data, scratch->size);
}

static bool take_function(ToolCall *call, Reader *reader, Out *scratch)
{
    Fields fields = FIELDS(CALLED);
    if (!take_byte(reader, '{'))
        return false;
    note(&call->said[FUNCTION], &call->fields, FULL);
    for (int field; (field = next_field(&fields, reader)) != NO_FIELD;) {
        if (field == NOT_SURE)
            return false;
        Said *said = &call->said[field == 0 ? NAME : ARGUMENTS];
        if (field == 0) {
            if (!take_once(said, &call->called, reader, scratch, false))
                return false;
            continue;
        }
        bool is_null = peek(reader) == 'n';
        if (!(is_null ? take_null(reader) : append_escaped(reader, &said->text)))
            return false;
        note(said, &call->called, is_null ? NONE : FULL);
    }
    return true;
}

bool take_fragment(ToolCalls *calls, Reader *reader, Out *scratch)
{
    Fields fields = FIELDS(FRAGMENT);
    int32_t index;
    bool known;
    if (!take_byte(reader, '{') || !find_index(*reader, &index, &known) || !known)
        return false;
    ToolCall *call = call_at(calls, index);
    if (call == NULL)
        return false;
    for (int field; (field = next_field(&fields, reader)) != NO_FIELD;) {
        switch (field) {
        case INDEX:
            if (!take_id(reader, &index))
                return false;
            break;
        case ID:
        case TYPE:
            if (!take_once(&call->said[field], &call->fields, reader, scratch, true))
                return false;
            break;
        case FUNCTION:
            if (!take_function(call, reader, scratch))
                return false;
            break;
        default: return false;
        }
    }
    return true;
}

static bool put_said(const Said *said, Out *out)
{
    if (said->mark == NONE)
        return out_text(out, "null");
    return out_byte(out, '"') && out_put(out, said->text.data, said->text.size) &&
           out_byte(out, '"');
}

/* Writes fields `from` to `to` in the order in which they came. */
static bool put_object(const ToolCall *call, int from, int to, int count, Out *out)
{
    static const char *const names[] = {"index", "id", "type", "function", "name", "arguments"};
    if (!out_byte(out, '{'))
        return false;
    for (int place = 0; place < count; place++) {
        int field = from;
        while (field <= to && (call->said[field].mark == UNSET || call->said[field].place != place))
            field++;
        if (field > to)
            return false;
        if ((place && !out_byte(out, ',')) || !out_byte(out, '"') ||
            !out_put(out, names[field], strlen(names[field])) || !out_text(out, "\":"))
            return false;
        if (!(field == FUNCTION ? put_object(call, NAME, ARGUMENTS, call->called, out)
                                : put_said(&call->said[field], out)))
            return false;
    }
    return out_byte(out, '}');
}

bool put_calls(const ToolCalls *calls, Out *out)
{
    int64_t last = -1;
    for (size_t done = 0; done < calls->count; done++) {
        const ToolCall *next = NULL;
        for (size_t place = 0; place < calls->count; place++) {
            const ToolCall *call = &calls->calls[place];
            if (call->index > last && (next == NULL || call->index < next->index))
                next = call;
        }
        if (next == NULL || (done && !out_byte(out, ',')) ||
            !put_object(next, ID, FUNCTION, next->fields, out))
            return false;
        last = next->index;
    }
    return true;
}

bool lacks_name(const ToolCalls *calls)
{
    for (size_t place = 0; place < calls->count; place++)
        if (calls->calls[place].said[NAME].text.size == 0)
            return true;
    return false;
}
