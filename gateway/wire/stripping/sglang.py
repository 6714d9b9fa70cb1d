"""What SGLang tells at places of its own, only if it was requested.

Known from its source: a choice has `matched_stop`, and no `stop_reason`. Token ids are in the
choice (`token_ids`, by newer versions `response_token_ids`), or in `sglext`: a member of a plain
response, and in a stream an event of its own, without choices. Logprobs are repeated in the
`meta_info` of a choice if the caller requests that.
"""

from collections.abc import Collection, Sequence

from gateway.headers import Headers, get_header
from gateway.wire.stripping.answer_text import AnswerText
from gateway.wire.stripping.json_text import (
    Edit,
    Malformed,
    Member,
    members,
    members_within,
    objects,
    removals,
    start_of_object,
)

MATCHED_STOP = b'"matched_stop"'
SGLEXT = b"sglext"
META_INFO = b"meta_info"

LOGPROBS = frozenset(
    (b"input_token_logprobs", b"output_token_logprobs", b"output_token_logprobs_length")
)
"""What `meta_info` has because logprobs were requested, without alternatives."""

ASKING_HEADERS = (b"x-sglext-return-input-ids", b"x-sglext-return-output-ids")
"""By these a caller requests token ids in `sglext`, as by fields of the request."""

SAYS_NOTHING = frozenset((b"{}", b'{"reasoning_content":null}'))
"""The delta of an event that SGLang sends only for the logprobs of a token without text."""


def is_sglang(choice: Sequence[Member]) -> bool:
    keys = [one.key for one in choice]
    return b"matched_stop" in keys and b"stop_reason" not in keys


def asks_sglang(headers: Headers) -> bool:
    """Whether a caller requests token ids by headers, so that they are not to be stripped."""
    return any(get_header(headers, name) is not None for name in ASKING_HEADERS)


def only_if_asked(answer: AnswerText, fields: Collection[bytes]) -> tuple[list[Member], list[Edit]]:
    """Return the members of a response to take out whole, and the edits within the others.

    `fields` are those of `sglext` that nobody but the gateway requested. If it has no other one, it
    goes.
    """
    for one in answer.top if fields else ():
        if one.key == SGLEXT and answer.text[one.value] == ord("{"):
            found = members_within(answer.text, one)
            doomed = [each for each in found if each.key in fields]
            if len(doomed) == len(found):
                return [one], []
            return [], removals(found, doomed)
    return [], []


def without_logprobs(text: bytes, choice: Sequence[Member]) -> list[Edit]:
    """Return the edits that take the logprobs out of `meta_info`, a member of `choice`."""
    for one in choice:
        if one.key == META_INFO and text[one.value] == ord("{"):
            found = members_within(text, one)
            return removals(found, [each for each in found if each.key in LOGPROBS])
    return []


def generate_edits(text: bytes, injected: Collection[str]) -> list[Edit] | None:
    """Return the edits that take `injected` out of a response or event of `/generate`.

    None if it is no object, and no list of them.
    """
    try:
        sequences = _sequences(text)
    except Malformed:
        return None
    edits: list[Edit] = []
    for found in sequences:
        if "token_ids" in injected:
            edits += removals(found, [one for one in found if one.key == b"prompt_token_ids"])
        if "logprobs" in injected:
            edits += without_logprobs(text, found)
    return edits


def _sequences(text: bytes) -> list[list[Member]]:
    at = start_of_object(text)
    if text[at : at + 1] == b"[":
        return [found for *_, found in objects(text, at)]
    return [members(text, at)[0]]
