"""Before a trace is stored, remove e-mail addresses and the tokens that spell them."""

import re

import msgspec

from gateway import Trace, hookimpl

ADDRESS = re.compile(rb"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")


@hookimpl
def redact_trace(trace: Trace) -> Trace | None:
    text, found = ADDRESS.subn(b"<address>", msgspec.json.encode(trace))
    if not found:
        return None
    clean = msgspec.json.decode(text, type=Trace)
    clean.raw_response, clean.logprobs, clean.divergence = None, None, None
    clean.prompt_token_ids, clean.completion_token_ids = [], []
    for choice in clean.choices:
        choice.prompt_token_ids, choice.token_ids, choice.logprobs = [], [], []
        choice.tokens = choice.top_logprobs = choice.prompt_logprobs = None
    return clean
