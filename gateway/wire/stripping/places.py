"""The places in the responses of an API at which injections show."""

from collections.abc import Callable, Collection, Mapping

import msgspec

from gateway.wire.stripping.json_text import Edit

Edits = Callable[[bytes, Collection[str]], list[Edit] | None]
"""Returns what takes injections out of a response or of an event; None if that cannot be read."""


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that tell something only if it was requested, by the name of the injection.

    `in_answer` are those of a whole response and of an event, `in_choice` those of a choice; they
    are null if nobody requested them. `omitted`: events then lack those of `in_answer`.
    `as_chat`: the responses have the form of chats and completions, so that the quick ways apply,
    and the event of the usage tells more than that. `edits`: responses have neither that form nor
    another with choices.

    The others are of SGLang alone, which the quick ways leave: `renamed` are fields of a choice
    that mean the same as some `in_choice`, `in_sglext` those of `sglext`; they are absent if nobody
    requested them. `asked_by` has the request field that requests one of the fields.
    """

    in_answer: Mapping[str, tuple[str, ...]]
    in_choice: Mapping[str, tuple[str, ...]]
    omitted: bool = False
    as_chat: bool = True
    edits: Edits | None = None
    renamed: Mapping[str, tuple[str, ...]] = {}
    in_sglext: Mapping[str, tuple[str, ...]] = {}
    asked_by: Mapping[str, str] = {}


def fields_at(places: Mapping[str, tuple[str, ...]], injected: Collection[str]) -> tuple[str, ...]:
    """Return the fields in `places` of these injections."""
    return tuple(field for name, fields in places.items() if name in injected for field in fields)


OPENAI = Places(
    in_answer={"token_ids": ("prompt_token_ids",)},
    in_choice={"token_ids": ("token_ids", "prompt_token_ids"), "logprobs": ("logprobs",)},
    renamed={"token_ids": ("response_token_ids",)},
)
"""Chat and completions, with the fields that vLLM adds."""

IN_SGLEXT = {
    "return_input_ids_in_sglext": "input_ids",
    "return_output_ids_in_sglext": "output_ids",
}
"""Fields of a chat that request token ids of SGLang, and those of `sglext` that have them."""

OPENAI_CHAT = msgspec.structs.replace(
    OPENAI,
    in_sglext={"token_ids": tuple(IN_SGLEXT.values())},
    asked_by={
        "prompt_token_ids": "return_prompt_token_ids",
        **{field: request for request, field in IN_SGLEXT.items()},
    },
)
"""Chat, with the fields that SGLang adds only there."""
