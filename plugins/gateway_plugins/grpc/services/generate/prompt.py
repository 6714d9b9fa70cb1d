"""The logprobs of a prompt, as vLLM has them, in parts of a bounded size."""

import math
from collections.abc import Iterator, Sequence

from gateway_plugins.grpc.services.generate.response import PromptLogprobs, PromptToken

Place = dict[str, PromptToken] | None


def prompt_events(
    found: PromptLogprobs, prompt: Sequence[int], top: int, most: int
) -> Iterator[dict[str, object]]:
    """Yield the members of PromptLogprobs, each of at most `most` tokens.

    `prompt` are the ids of the tokens, if they are known; `top` is how many of the likeliest ones
    are wanted.
    """
    for start in range(0, len(found), most):
        places = found[start : start + most]
        own = [_own(place, prompt, start + at) for at, place in enumerate(places)]
        has = [value is not None for value in own]
        yield {
            "logprobs": [value or 0.0 for value in own],
            "has_logprob": () if all(has) else has,
            "top": [{"tokens": _top(place, top)} for place in places] if top else (),
        }


def _own(place: Place, prompt: Sequence[int], at: int) -> float | None:
    """Return the logprob of the token that is there; vLLM puts it first."""
    if not place:
        return None
    known = place.get(str(prompt[at])) if at < len(prompt) else next(iter(place.values()))
    value = None if known is None else known.logprob
    return value if value is not None and math.isfinite(value) else None


def _top(place: Place, top: int) -> list[dict[str, object]]:
    """Return the likeliest tokens, the likeliest first."""
    ranked = [
        (one.rank or 0, token, one)
        for token, one in (place or {}).items()
        if (one.rank or 0) <= top and token.isdecimal() and len(token) <= 10
    ]
    return [
        {"id": min(int(token), 2**32 - 1), "token": one.decoded_token or "", "logprob": one.logprob}
        for _, token, one in sorted(ranked, key=lambda entry: entry[0])
        if one.logprob is not None and math.isfinite(one.logprob)
    ]
