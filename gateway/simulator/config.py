"""Configuration of a simulator."""

import msgspec

from gateway.simulator.faults import Faults


class SimulatorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The simulator's settings; the defaults are a fast engine without faults.

    `ttft` is the time to first token and `itl` the time between tokens, in seconds. If `api_key` is
    set, paths below `/v1`, `/v2`, `/inference` and `/cohere` require it as a bearer token; as in
    vLLM the other paths do not. `seed` makes calls without a seed repeatable, in the order of their
    arrival. `request_id_headers` is vLLM's `--enable-request-id-headers`: every response has an
    `x-request-id`. `development` is vLLM's `VLLM_SERVER_DEV_MODE=1`: pausing, and swapping weights.
    `scale_out` is vLLM's `--enable-scale-out`: generate, render and derender, which it otherwise
    refuses with 403. `prompt_tokens_details` is vLLM's `--enable-prompt-tokens-details`: usage
    tells how many tokens of the prompt were in the prefix cache. With `reasoning` the model thinks
    before it answers, and the server tells thoughts from the answer, as with vLLM's
    `--reasoning-parser`. `responses_store` is vLLM's `VLLM_ENABLE_RESPONSES_API_STORE=1`: responses
    of `/v1/responses` are kept, and may run in the background.
    """

    model: str = "sim"
    ttft: float = 0.0
    itl: float = 0.0
    max_model_len: int = 2048
    api_key: str | None = None
    seed: int | None = None
    request_id_headers: bool = False
    development: bool = False
    scale_out: bool = False
    prompt_tokens_details: bool = False
    reasoning: bool = False
    responses_store: bool = False
    faults: Faults = Faults()

    def __post_init__(self) -> None:
        if self.ttft < 0 or self.itl < 0:
            raise ValueError("ttft and itl are seconds and must not be negative")
        if self.max_model_len < 2:
            raise ValueError("max_model_len must hold a prompt and an answer: at least 2")
