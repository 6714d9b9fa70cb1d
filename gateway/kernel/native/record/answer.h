/* An answer of chat or completions as it is read: plain.c and events/events.c fill it, record.c
 * hands it to Python. Nothing here needs the GIL. As in json.h, false stands for "not sure". */
#ifndef KERNEL_ANSWER_H
#define KERNEL_ANSWER_H

#include "record/fields.h"

#define MAX_CHOICES 128

/* Whether a list was sent, over all chunks of a choice: with items, empty, as null, or not. */
typedef enum { UNSET, NONE, EMPTY, FULL } Mark;

enum { TOKENS, TOKEN_LOGPROBS, TEXT_OFFSET, TOP_LOGPROBS, CONTENT, REFUSAL, SCORE_FIELDS };

typedef struct ToolCall ToolCall;

typedef struct {
    ToolCall *calls;
    size_t count;
} ToolCalls;

/* One choice. The fields of a completion's logprobs and of a chat's are never both in use. */
typedef struct {
    int32_t index;
    size_t chunks;
    Out ids, prompt;  /* int32 */
    Out values;       /* float32, NaN for null */
    Out places;       /* where the text of each value is */
    Out texts;        /* of tokens, as MessagePack */
    size_t text_count;
    bool has_texts;   /* even if there are none */
    bool inexact;     /* float32 changes a value */
    bool invalid;     /* a value is no logarithm of a probability */
    bool counts_differ, contradicts;
    bool irregular;   /* entries of a chat have more than `texts` and `values` tell */
    bool lacks_id;    /* not every entry has one */
    Out content, entry_ids;
    Out offsets, tops, prompt_logprobs;
    size_t offset_count, top_count, characters;
    bool has_offsets, has_tops, odd_offsets, odd_tops;
    Out finish; /* the reason, as text */
    /* Of a stream only. */
    Mark ids_mark, prompt_mark, prompt_logprobs_mark, score_marks[SCORE_FIELDS];
    bool has_scores, has_content;
    Out role, said[4];   /* content, refusal, reasoning, reasoning_content: escaped, unquoted */
    ToolCalls tools;
    Out ends[4];         /* finish_reason, stop_reason, matched_stop, routed_experts */
} Choice;

typedef struct {
    bool chat, streamed, done;
    size_t events;
    const uint8_t *end; /* of the body */
    Out skeleton, id, model, usage, stamped, prompt, prompt_logprobs;
    Choice *choices;
    size_t count, room;
    Out scratch, pieces, inner, work; /* for the time of one value */
    Order event_order, chunk_order, delta_order; /* of a stream only */
} Answer;

bool read_plain(Answer *answer, Slice body);
bool read_events(Answer *answer, Slice body);
void answer_free(Answer *answer);

/* A new choice, NULL if there are too many. It is valid until the next one is made. */
Choice *add_choice(Answer *answer, int32_t index);

/* `extra` of a part: JSON of what it has no field for, nothing in the common case. */
bool write_extra(const Choice *choice, const Answer *answer, Out *extra);

/* Reads a list of token ids. */
bool take_ids(Reader *reader, Out *ids, Mark *mark);

/* Reads `logprobs`, an object. Sets a mark for each of its fields and counts the entries. */
bool take_chat_scores(Choice *choice, Reader *reader, Out *scratch, Mark *marks, size_t *count);
bool take_completion_scores(Choice *choice, Reader *reader, Out *scratch, Mark *marks,
                            size_t *count);

/* Reads a list of prompt logprobs, to be kept as JSON. */
bool take_prompt_logprobs(Reader *reader, Out *kept, Mark *mark);

/* What follows from all chunks: the ids of the entries, and whether the lists fit together. */
bool settle_choice(Choice *choice, bool chat);

/* Of a stream's tool calls: reads a fragment, writes the calls without brackets, and tells whether
 * one of them calls nothing. */
bool take_fragment(ToolCalls *calls, Reader *reader, Out *scratch);
bool put_calls(const ToolCalls *calls, Out *out);
bool lacks_name(const ToolCalls *calls);
void calls_free(ToolCalls *calls);

/* The `index` of an object, wherever it stands; 0 if it has none. */
bool find_index(Reader reader, int32_t *index, bool *known);

static inline Mark mark_of(size_t count)
{
    return count ? FULL : EMPTY;
}

static inline void add_mark(Mark *to, Mark mark)
{
    if (mark == FULL || *to == UNSET)
        *to = mark;
}

#endif
