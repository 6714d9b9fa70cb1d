"""Bodies of Responses requests, as far as the schema checks them; the rest is translated."""

import msgspec


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True):
    input: str | list[dict[str, object]]
    model: str | None = None
    stream: bool | None = False
    background: bool | None = False
    store: bool | None = True
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    request_id: str | None = None
