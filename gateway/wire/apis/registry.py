"""Finds the API of a request path.

`path` is the path as the caller sent it, without the query; it is decoded as the worker does.
"""

from urllib.parse import unquote

from gateway.wire.apis import (
    anthropic,
    embeddings,
    openai,
    openai_files,
    responses,
    sglang,
    token_api,
)
from gateway.wire.dialect import Api, Dialect

APIS: tuple[Api, ...] = (
    openai.CHAT,
    openai.CHAT_BATCH,
    openai.COMPLETIONS,
    responses.RESPONSES,
    responses.STORED_RESPONSES,
    responses.COMPACT,
    responses.COUNT_INPUT,
    anthropic.MESSAGES,
    anthropic.COUNT_TOKENS,
    token_api.GENERATE,
    sglang.GENERATE,
    token_api.ABORT,
    token_api.TOKENIZER,
    token_api.RENDER,
    token_api.DERENDER,
    embeddings.EMBEDDINGS,
    embeddings.RERANK,
    embeddings.SCORE,
    embeddings.CLASSIFY,
    embeddings.POOLING,
    openai_files.MODELS,
    openai_files.FILES,
    openai_files.UPLOADS,
    openai_files.BATCHES,
    openai_files.AUDIO,
    openai_files.IMAGES,
    openai_files.MODERATIONS,
)
"""Every API that the gateway knows."""

_BY_PATH = {path: api for api in APIS for path in api.paths}
_BY_PARENT = {api.below: api for api in APIS if api.below}
_DIALECTS = {path: api for path, api in _BY_PATH.items() if isinstance(api, Dialect)}


def api_of(path: str) -> Api | None:
    """Return the API of a path, or None if the gateway does not know it."""
    decoded = unquote(path) if "%" in path else path
    return _BY_PATH.get(decoded) or _BY_PARENT.get("/".join(decoded.split("/", 3)[:3]))


def dialect_of(path: str) -> Dialect | None:
    """Return the API of a path if the gateway can read its responses, else None."""
    return _DIALECTS.get(unquote(path) if "%" in path else path)
