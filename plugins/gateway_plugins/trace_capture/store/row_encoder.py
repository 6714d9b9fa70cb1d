"""Turns a record into a row, delta-encoded against an earlier trace of its session."""

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway import Trace
from gateway_plugins.trace_capture.answers.assembled import Part
from gateway_plugins.trace_capture.codec import Codec, text_delta
from gateway_plugins.trace_capture.recording.facts import Facts, changed_facts, facts_of
from gateway_plugins.trace_capture.recording.head import RECEIPTS, Head
from gateway_plugins.trace_capture.recording.record import Record
from gateway_plugins.trace_capture.sequences.lineage import Relation
from gateway_plugins.trace_capture.store.row import (
    NO_TEXTS,
    ChoiceTokens,
    Content,
    PromptDelta,
    Row,
    RowNumber,
    pack_digests,
)
from gateway_plugins.trace_capture.store.session_cache import MAX_DEPTH, CachedSession, KnownTrace

_NOTHING = Relation(None, 0, None, 0)
_encode = msgspec.msgpack.Encoder().encode


class _Choices(msgspec.Struct):
    """What a row has of the choices: `prompts` are the distinct ones, the rest has one for each.

    `sequences` are prompt and completion; b"" if nothing was sampled. A prompt alone is not a turn:
    a request that is repeated after an abort does not extend it.
    """

    prompts: list[bytes]
    tokens: list[ChoiceTokens]
    texts: list[msgspec.Raw]
    extra: list[bytes]
    sequences: list[bytes]


def changed_row(record: Record, trace: Trace, session: CachedSession | None, codec: Codec) -> Row:
    """Return the row of a trace that a hook changed; it holds only what the hook left."""
    number = RowNumber()
    if session is not None:  # in memory only, so that later turns find their parent
        sequences = _choices(record.answer.parts).sequences
        session.add(KnownTrace(number, record.trace_id, MAX_DEPTH), sequences)
    content = Content(Head(whole=True), skeleton=msgspec.json.encode(trace))
    facts = changed_facts(record, trace)
    return _row(record, content, None, number, codec, facts, complete=trace.verdict == "COMPLETE")


def encode_row(record: Record, session: CachedSession | None, codec: Codec) -> Row:
    """Return the row of `record`, and add the record to the session."""
    head, number = record.head, RowNumber()
    choices = _choices(record.answer.parts)
    relations = [
        session.lineage.relation(text) if session else _NOTHING for text in choices.prompts
    ]
    base = _base(session, relations)
    if session is not None and relations:
        _set_lineage(record, session, relations[0], choices.prompts[0])
    if session is not None and record.retried:
        head.retry_of = _first_try(session, record.request)
    content = Content(
        head,
        text_delta((base.request if base else None) or b"", record.request),
        _prompts(choices.prompts, relations, session, base),
        choices.tokens,
        record.answer.skeleton,
        choices.texts,
        choices.extra,
    )
    row = _row(record, content, base, number, codec, facts_of(record), complete=not head.reasons)
    if session is not None:
        request, receipt = record.request, head.receipt
        known = KnownTrace(number, record.trace_id, row.depth, request, head.retry_of, receipt)
        row.digests = pack_digests(session.add(known, choices.sequences))
    return row


def _row(
    record: Record,
    content: Content,
    base: KnownTrace | None,
    number: RowNumber,
    codec: Codec,
    facts: Facts,
    *,
    complete: bool,
) -> Row:
    try:
        encoded = _encode(content)
    except OverflowError:
        _fit(content.head)
        encoded = _encode(content)
    return Row(
        trace_id=record.trace_id,
        session_id=record.session_id,
        timestamp=record.timestamp,
        complete=complete,
        model=record.model,
        base=base.number if base else None,
        depth=base.depth + 1 if base else 0,
        digests=b"",
        content=codec.compress(encoded),
        number=number,
        principal=record.head.principal,
        parent_session=record.head.harness[3] if record.head.harness else None,
        started=record.started,
        facts=facts,
    )


def _fit(head: Head) -> None:
    """Replace values with integers of more than 64 bits by JSON text: MessagePack has none."""
    head.injected, head.overwritten = _fitting(head.injected), _fitting(head.overwritten)
    head.sampling_params = _fitting(head.sampling_params)
    head.usage = None if head.usage is None else _fitting(head.usage)
    if isinstance(head.engine_version, int):
        head.engine_version = str(head.engine_version)


def _fitting(values: dict[str, Any]) -> dict[str, Any]:
    found = dict(values)
    for name, value in values.items():
        try:
            _encode(value)
        except OverflowError:
            found[name] = msgspec.json.encode(value).decode()
    return found


def _choices(parts: Sequence[Part]) -> _Choices:
    if len(parts) == 1:  # as nearly all responses have
        part = parts[0]
        prompt, ids, texts = part.packed_prompt, part.packed_ids, part.packed_tokens
        return _Choices(
            [prompt],
            [ChoiceTokens(part.index, 0, ids, part.packed_logprobs)],
            [NO_TEXTS if texts is None else msgspec.Raw(texts)],
            [part.extra],
            [prompt + ids if ids else b""],
        )
    found, places = _Choices([], [], [], [], []), dict[bytes, int]()
    for part in parts:
        prompt, ids, texts = part.packed_prompt, part.packed_ids, part.packed_tokens
        if prompt not in places:
            places[prompt] = len(found.prompts)
            found.prompts.append(prompt)
        tokens = ChoiceTokens(part.index, places[prompt], ids, part.packed_logprobs)
        found.tokens.append(tokens)
        found.texts.append(NO_TEXTS if texts is None else msgspec.Raw(texts))
        found.extra.append(part.extra)
        found.sequences.append(prompt + ids if ids else b"")
    return found


def _base(session: CachedSession | None, relations: list[Relation]) -> KnownTrace | None:
    """Return the base to delta-encode against; None if there is none, or its chain is too deep.

    The base shares the longest prefix with the first prompt; else it is the latest cached trace.
    """
    if session is None:
        return None
    key = relations[0].nearest if relations else None
    if key is not None:
        base = session.known[key[0]]
    elif session.cached:
        base = session.cached[-1]
    else:
        return None
    return base if base.depth < MAX_DEPTH else None


def _set_lineage(record: Record, session: CachedSession, found: Relation, prompt: bytes) -> None:
    head = record.head
    if found.parent is not None:
        head.parent = session.known[found.parent[0]].trace_id
    if found.nearest is not None and found.extends < found.common < len(prompt):
        head.diverged_from = session.known[found.nearest[0]].trace_id
        head.diverged_choice = found.nearest[1]
        head.common_tokens = found.common // 4


def _first_try(session: CachedSession, request: bytes) -> str | None:
    """Return the id of the first trace of the request that is sent again.

    None if none is in memory, or if the caller was told that the call failed, for example by a
    limit: that explains why it asks again, and nothing that it may have missed was sampled. Each
    trace explains one retry, so that samples of one request stay apart.
    """
    same = [one for one in reversed(session.cached) if one.request == request and not one.retried]
    if not same:
        return None
    found = min(same, key=lambda one: RECEIPTS.index(one.receipt))  # of these the latest
    found.retried = True
    return None if found.receipt == "failed" else found.retry_of or found.trace_id


def _prompts(
    texts: Sequence[bytes],
    relations: Sequence[Relation],
    session: CachedSession | None,
    base: KnownTrace | None,
) -> list[PromptDelta]:
    if session is None or base is None:
        return [PromptDelta(0, 0, text) for text in texts]
    found = []
    for text, relation in zip(texts, relations, strict=True):
        near = relation.nearest
        if near is not None and session.known[near[0]] is base:
            found.append(PromptDelta(relation.common, near[1], text[relation.common :]))
        else:
            found.append(PromptDelta(0, 0, text))
    return found
