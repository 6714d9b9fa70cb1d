"""Token counts of a Messages response."""

from gateway.wire.translation.chat import Usage

NO_USAGE = b'{"input_tokens":0,"output_tokens":0}'


def usage_json(usage: Usage | None) -> bytes:
    """Return the JSON of a usage, its fields in the engine's order.

    Prompt tokens from a cache, or written to one, are no input tokens.
    """
    if usage is None:
        return NO_USAGE
    prompt, details, more = usage.prompt_tokens or 0, usage.prompt_tokens_details, b""
    if details is not None and details.created_cache_tokens is not None:
        prompt -= details.created_cache_tokens
        more += b',"cache_creation_input_tokens":%d' % details.created_cache_tokens
    if details is not None and details.cached_tokens is not None:
        prompt -= details.cached_tokens
        more += b',"cache_read_input_tokens":%d' % details.cached_tokens
    completion = usage.completion_tokens or 0
    return b'{"input_tokens":%d,"output_tokens":%d%b}' % (max(0, prompt), completion, more)
