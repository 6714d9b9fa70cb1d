"""Which calls are translated."""

import random

from gateway import Call, Worker, Workers
from gateway_plugins.translate.options import Options, When


def speaks(worker: Worker, api: str) -> bool:
    """Whether a worker takes calls of the API itself."""
    return not worker.settings.apis or api in worker.settings.apis


def is_needed(call: Call, api: str, workers: Workers) -> bool:
    """Whether no worker of the call's model takes calls of the API itself."""
    serving = workers.serving(call.model if workers.mixed else None).all
    return bool(serving) and not any(speaks(worker, api) for worker in serving)


def is_wanted(call: Call, when: When, options: Options) -> bool:
    """Whether a call that need not be translated is to be."""
    if when == "captured":
        return call.session_id is not None or _asks_for_capture(call, options.capture_label)
    return when == "always"


def is_checked(call: Call, options: Options) -> bool:
    """Whether the engine is asked if it makes the same prompt of this call in both ways."""
    return call.header(options.check_header) is not None or random.random() < options.check_ratio


def _asks_for_capture(call: Call, label: str) -> bool:
    value = call.principal.labels.get(label) if call.principal is not None else None
    return value is not None and value != "false"
