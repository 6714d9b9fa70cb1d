"""The workers that may take a call now, by its model, its principal, and what it is about."""

from collections.abc import Sequence

from gateway.calls.call import Call
from gateway.errors import NotFound
from gateway.fleet.registry import Serving, Workers
from gateway.fleet.worker import Worker
from gateway.pipeline.authorization import allowed_workers
from gateway.pipeline.choice.keeping import keeping


def able_at_once(call: Call, registry: Workers) -> Sequence[Worker] | None:
    """Return what `able_workers` does, None if it has to find that out."""
    limited = call.principal is not None and call.principal.workers is not None
    if limited or call.dialect is None:
        return None
    if not registry.mixed:
        return registry.fit
    found = registry.views.get(call.model)
    return None if found is None else found.fit


async def able_workers(call: Call, registry: Workers) -> Sequence[Worker]:
    """Return the fit workers that may take the call.

    Raises NotFound if no worker serves the requested model, and what `keeping` raises.
    """
    serving = registry.serving(call.model if registry.mixed else None)
    if not serving.all and registry.mixed and not registry.may_load(call.model):
        serving = await _looked_again(call, registry)
    workers = allowed_workers(call, serving.fit)
    if call.dialect is None and len(registry.all) > 1:
        workers = await keeping(call, registry, serving.all, workers)
    return workers


async def _looked_again(call: Call, registry: Workers) -> Serving:
    await registry.refresh_models()  # the model may have been loaded just now
    serving = registry.serving(call.model if registry.mixed else None)
    if not serving.all and registry.mixed:
        # In the words of vLLM.
        message = f"The model `{(call.model or '')[:200]}` does not exist."
        raise NotFound(message, param="model", code="model_not_found")
    return serving


async def find_model(call: Call) -> None:
    """Read the whole body if its model is not known yet; not an upload, which has none.

    Raises BodyTooLarge (413), BodyTimeout (408), CallerGone.
    """
    api = call.api
    if call.model is None and (api is None or api.scope != "upload"):
        await call.body.read()
