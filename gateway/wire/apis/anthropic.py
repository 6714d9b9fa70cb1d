"""Anthropic's messages: the gateway forwards them, and reads the usage of their responses."""

from gateway.wire.apis.anthropic_errors import refusal
from gateway.wire.dialect import Api

MESSAGES = Api(
    name="messages",
    paths=("/v1/messages",),
    work="generates",
    max_tokens=("max_tokens",),
    tells_end=True,
    refusal=refusal,
)
COUNT_TOKENS = Api(
    name="count_tokens",
    paths=("/v1/messages/count_tokens",),
    work="converts",
    refusal=refusal,
)
