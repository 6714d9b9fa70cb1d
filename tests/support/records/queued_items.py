"""Items to queue, and the engine of a running gateway."""

import json
import secrets
import time

from gateway_plugins.batch import Batch
from gateway_plugins.batch.engine import Engine
from gateway_plugins.batch.queue.items import NewItem, Owner

from gateway import Principal
from gateway.testing import MESSAGES, Live

CHAT = "/v1/chat/completions"

OWNER = Owner(Principal("ada", frozenset({"batch"})))


def new_item(
    *, model: str = "sim", path: str = CHAT, deadline: float = 3_600.0, **body: object
) -> NewItem:
    """A short chat; `deadline` is seconds from now."""
    now = time.time()
    whole = {"model": model, "messages": list(map(dict, MESSAGES)), "max_tokens": 4, **body}
    return NewItem(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        kind="chat_completion",
        path=path,
        model=model,
        body=json.dumps(whole).encode(),
        priority=0,
        submitted=now,
        deadline=now + deadline,
    )


def engine_of(live: Live) -> Engine:
    engine = live.plugin(Batch).engine
    assert engine is not None
    return engine
