"""The names of OpenTelemetry's conventions, of two generations.

`GenAi.former` false: v0.1.0 of the conventions for generative AI, the first release of their own
repository (open-telemetry/semantic-conventions-genai). True: v1.36.0 of the common conventions, the
generation before. Attributes of HTTP are those of the stable conventions, in both.
"""

from collections.abc import Mapping

import msgspec

OPERATIONS: Mapping[str, str] = {
    "chat": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "generate": "text_completion",
    "embeddings": "embeddings",
}
"""`gen_ai.operation.name` by the name of the API; another API is its own name."""

PROVIDERS: Mapping[str, str] = {"messages": "anthropic"}
"""`gen_ai.provider.name` by the name of the API: whose format the calls have."""

PROVIDER = "openai"

FORMER_ONLY: Mapping[str, str] = {"gen_ai.provider.name": "gen_ai.system"}
"""Names of v0.1.0 that v1.36.0 has otherwise."""

NEW = frozenset(
    {
        "gen_ai.request.stream",
        "gen_ai.request.reasoning.level",
        "gen_ai.response.time_to_first_chunk",
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.input.messages",
        "gen_ai.output.messages",
    }
)
"""Names of v0.1.0 that v1.36.0 does not have."""


class GenAi(msgspec.Struct, frozen=True):
    """Which generation spans have, and which provider, None: by the API."""

    former: bool = False
    provider: str | None = None

    def name(self, latest: str) -> str | None:
        """Return the name of an attribute in this generation; None if it has no such."""
        if not self.former:
            return latest
        return None if latest in NEW else FORMER_ONLY.get(latest, latest)

    def provider_of(self, api: str) -> str:
        return self.provider or PROVIDERS.get(api, PROVIDER)


def operation_of(api: str) -> str:
    return OPERATIONS.get(api, api)
