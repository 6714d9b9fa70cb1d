"""The options of the plugin."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

When = Literal["needed", "captured", "always", "never"]
"""Which calls of an API are translated: those before workers that do not speak it; those and all
that are captured; all; none."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When each API is translated, which keys ask for capture, and how many prompts are checked.

    A call is captured if it has a session, or if its key has the label `capture_label` with any
    value but `false`. `own_responses`: Responses that need not be carried as chat go to the
    engine's own API, which is asked for their tokens. `extensions`: workers that speak only chat
    take vLLM's own fields too. `check_ratio` is the share of translated calls whose prompt is
    checked; a call with the header `check_header` is always checked.
    """

    messages: When = "captured"
    responses: When = "captured"
    capture_label: str = "capture"
    own_responses: bool = False
    extensions: bool = False
    check_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.0
    check_header: str = "x-gateway-check-prompt"
