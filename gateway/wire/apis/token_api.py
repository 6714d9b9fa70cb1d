"""vLLM's paths for callers that work with token ids: generation from ids, and the tokenizer."""

from gateway.wire.dialect import Api

GENERATE = Api(
    name="generate",
    paths=("/inference/v1/generate",),
    work="generates",
    max_tokens=("max_tokens",),
    several=True,
    prompts="token_ids",
    nested=True,
    labelled=False,
)
TOKENIZER = Api(name="tokenizer", paths=("/tokenize", "/detokenize"), work="converts")
