"""The places in the responses of an API at which injections show."""

from collections.abc import Collection, Mapping

import msgspec


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that tell something only if it was requested, by the name of the injection.

    `in_answer` are those of a whole response and of an event, `in_choice` those of a choice; they
    are null if nobody requested them. `omitted`: events then lack those of `in_answer`.
    `as_chat`: the responses have the form of chats and completions, so that the quick ways apply,
    and the event of the usage tells more than that.
    """

    in_answer: Mapping[str, tuple[str, ...]]
    in_choice: Mapping[str, tuple[str, ...]]
    omitted: bool = False
    as_chat: bool = True


def fields_at(places: Mapping[str, tuple[str, ...]], injected: Collection[str]) -> tuple[str, ...]:
    """Return the fields in `places` of these injections."""
    return tuple(field for name, fields in places.items() if name in injected for field in fields)


OPENAI = Places(
    in_answer={"token_ids": ("prompt_token_ids",)},
    in_choice={"token_ids": ("token_ids", "prompt_token_ids"), "logprobs": ("logprobs",)},
)
"""Chat and completions, with the fields that vLLM adds."""
