"""Applies a session's sampling parameters to one call: the cap on tokens under the API's name."""

from collections.abc import Mapping
from typing import Any

from gateway import Api

CAPS = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "n_predict",
    "num_predict",
)
"""Names that APIs and engines have for the maximum number of tokens of a choice."""

NESTED = "sampling_params"
"""Field of a request that holds the parameters, in an API that is `nested`."""


def applied(
    params: Mapping[str, Any], api: Api | None, request: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the top-level fields to set in `request` so that `params` hold for it.

    A cap holds under every name that the request has for it, and else under the API's own name. Of
    several caps the one that the API reads first counts.
    """
    if api is None or not api.nested:
        return _capped(params, api, request)
    inner = request.get(NESTED)
    inner = inner if isinstance(inner, dict) else {}
    return {NESTED: {**inner, **_capped(params, api, inner)}}


def _capped(
    params: Mapping[str, Any], api: Api | None, request: Mapping[str, Any]
) -> dict[str, Any]:
    known = api.max_tokens if api is not None else ()
    caps = [name for name in (*known, *CAPS) if name in params]
    if not caps:
        return dict(params)
    others = {name: value for name, value in params.items() if name not in CAPS}
    names = [name for name in CAPS if name in request]
    if not any(name in known for name in names):
        readable = [name for name in caps if name in known] or known[-1:] or caps
        names.append(readable[0])
    return {**others, **dict.fromkeys(names, params[caps[0]])}
