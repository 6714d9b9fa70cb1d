"""OpenAI's responses: the gateway forwards them, and reads the usage of their responses."""

from gateway.wire.dialect import Api

RESPONSES = Api(
    name="responses",
    paths=("/v1/responses",),
    work="generates",
    max_tokens=("max_output_tokens",),
    tells_end=True,
)
STORED_RESPONSES = Api(name="stored_responses", below="/v1/responses", work="manages")
COMPACT = Api(name="compact", paths=("/v1/responses/compact",), work="generates", labelled=False)
COUNT_INPUT = Api(
    name="input_tokens", paths=("/v1/responses/input_tokens",), work="converts", labelled=False
)
