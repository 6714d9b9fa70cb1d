"""The options of the plugin."""

from typing import Literal

import msgspec

When = Literal["needed", "captured", "always", "never"]
"""Which calls of an API are translated: those before workers that do not speak it; those and all
that are captured; all; none."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When each API is translated, and which keys ask for capture.

    A call is captured if it has a session, or if its key has the label `capture_label` with any
    value but `false`.
    """

    messages: When = "captured"
    responses: When = "captured"
    capture_label: str = "capture"
