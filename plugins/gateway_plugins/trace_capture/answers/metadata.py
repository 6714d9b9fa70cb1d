"""Reads ids, model, weight version, usage and errors from every place that engines use."""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway import error_message as message_of
from gateway import tokens_of
from gateway_plugins.trace_capture.answers.assembled import Assembled

UNNAMED_WEIGHTS = "default"
"""The version that vLLM gives to weights to which nobody gave one."""


def assembled(answer: Mapping[str, Any], skeleton: bytes | None = None) -> Assembled:
    """Return the record of `answer`, without parts; `skeleton` is its JSON, if already encoded."""
    usage = answer.get("usage")
    found = Assembled(
        skeleton=msgspec.json.encode(answer) if skeleton is None else skeleton,
        response_id=text(answer.get("id")) or text(answer.get("request_id")),
        model=text(answer.get("model")),
        weight_version=weight_version(answer),
        versions_named=versions_named(answer),
        error=error_message(answer),
    )
    with_usage(found, usage)
    return found


def with_usage(found: Assembled, usage: object) -> None:
    """Set `usage` and its token counts, the completion's from either of its two names."""
    if isinstance(usage, dict):
        found.usage = usage
        found.prompt_tokens = tokens_of(usage.get("prompt_tokens"))
        found.completion_tokens = tokens_of(
            usage.get("completion_tokens", usage.get("output_tokens"))
        )


def text(value: object) -> str:
    return value if isinstance(value, str) else ""


def weight_version(answer: Mapping[str, Any]) -> int | str | None:
    """Return the weight version in the response, or in its first choice that has one.

    Of a choice that was sampled by several, it is the first.
    """
    choices = answer.get("choices")
    for place in (answer, *(choices if isinstance(choices, list) else ())):
        if isinstance(place, dict) and (found := _version_at(place)) is not None:
            return found
    return None


def versions_named(answer: Mapping[str, Any]) -> list[int | str]:
    """Return all weight versions that the response names, each once; `default` names none."""
    choices = answer.get("choices")
    found: dict[int | str, None] = {}
    for place in (answer, *(choices if isinstance(choices, list) else ())):
        if isinstance(place, dict):
            for holder in (place, place.get("metadata"), place.get("meta_info")):
                found.update(dict.fromkeys(_all_at(holder)))
    return [version for version in found if version != UNNAMED_WEIGHTS]


def _all_at(holder: object) -> list[int | str]:
    """Return the versions of the spans in `holder`; without spans, its one version."""
    if not isinstance(holder, dict):
        return []
    spans = holder.get("weight_versions")
    if isinstance(spans, list) and spans:
        named = [span.get("version") for span in spans if isinstance(span, dict)]
    else:
        named = [holder.get("weight_version")]
    return [one for one in named if isinstance(one, int | str) and not isinstance(one, bool)]


def error_message(answer: Mapping[str, Any]) -> str | None:
    """Return the error's message, as JSON if its shape is unknown; None if there is no error."""
    error = answer.get("error")
    if error is None and answer.get("object", answer.get("type")) == "error":
        error = answer
    if error is None and "choices" not in answer:
        error = answer.get("detail")
    return message_of(error)


def _version_at(place: Mapping[str, Any]) -> int | str | None:
    for holder in (place, place.get("metadata"), place.get("meta_info")):
        spans = holder.get("weight_versions") if isinstance(holder, dict) else None
        if isinstance(spans, list) and spans and isinstance(spans[0], dict):
            first = spans[0].get("version")
            return first if isinstance(first, int | str) and first != UNNAMED_WEIGHTS else None
    for holder in (place, place.get("metadata"), place.get("meta_info")):
        version = holder.get("weight_version") if isinstance(holder, dict) else None
        if isinstance(version, int | str) and not isinstance(version, bool):
            return version
    return None
