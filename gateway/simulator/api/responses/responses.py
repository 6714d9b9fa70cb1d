"""`/v1/responses`: checks a request as the engine does, and carries it as chat."""

import msgspec

from gateway.simulator.api.chat import prepare_chat
from gateway.simulator.api.responses.form import Fields, Form
from gateway.simulator.api.responses.store import Kept, Store
from gateway.simulator.api.responses.wire import ResponsesWire
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.generation import Prepared
from gateway.simulator.input.refusals import Refused, bad_request, bad_schema, parse, shown, unfit
from gateway.simulator.input.responses import ResponsesRequest
from gateway.simulator.preparing import check_model, check_sampling
from gateway.wire.translation.responses.request.request import read
from gateway.wire.translation.responses.structs import Item, Request
from gateway.wire.translation.responses.translator import ResponsesTranslator, carry
from gateway.wire.translation.translation import Translation, Untranslatable

_NO_STORE = (
    "This vLLM engine does not support `store=True` and therefore does not support the background "
    "mode. To enable these features, set the environment variable "
    "`VLLM_ENABLE_RESPONSES_API_STORE=1` when launching the vLLM server."
)

_ITEMS = frozenset(
    {
        None,
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "item_reference",
    }
)
"""Types of items that an input can have."""


class Responses:
    """Prepares the calls of one engine; `store` has what they leave."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.store = Store()
        self._keeps = config.responses_store

    def prepare(self, body: bytes, given_id: str | None, config: SimulatorConfig) -> Prepared:
        """Check `body`, and plan its response as chat; raises Refused."""
        asked = parse(body, ResponsesRequest)
        check_model(asked.model, config)
        if asked.background and not self._keeps:
            raise Refused(400, _NO_STORE, "invalid_request_error", "background")
        _check_items(asked.input)
        history = self._history(asked)
        request = _read(body)
        translation = _translated(request, history)
        translator = translation.response
        assert isinstance(translator, ResponsesTranslator)
        if request.request_id is None:
            translator.response.id = f"resp_{translator.response.id[-16:]}"
        name = translator.response.id
        prepared = prepare_chat(translation.body, None, config, name=name)
        (prompt,) = prepared.plan.prompts
        form = Form(request, prompt, config.max_model_len - len(prompt))
        items = [*history, *_input(request)]

        def keep(fields: Fields) -> None:
            if self._keeps and asked.store is not False:
                self._keep(name, fields, items)

        wire = ResponsesWire(translator, form, keep)
        return msgspec.structs.replace(prepared, wire=wire)

    def queue(self, body: bytes, config: SimulatorConfig) -> Kept:
        """Check `body`, and keep its response, which has yet to run; raises Refused."""
        prepared = self.prepare(body, None, config)
        check_sampling(prepared.plan, config)
        assert isinstance(prepared.wire, ResponsesWire)
        kept = Kept(prepared.wire.begun(b'"queued"'), [])
        self.store.add(prepared.answer.name, kept)
        return kept

    def _keep(self, name: str, fields: Fields, items: list[Item]) -> None:
        known = self.store.get(name)
        if known is None:
            self.store.add(name, Kept(fields, items))
        else:
            known.fields, known.items = fields, items

    def _history(self, asked: ResponsesRequest) -> list[Item]:
        if asked.previous_response_id is None:
            return []
        return self.store.named(asked.previous_response_id).history


def in_responses(refused: Refused) -> Refused:
    """Return a refusal of chat with the names of Responses."""
    if refused.param != "max_tokens":
        return refused
    message = refused.message.replace("max_tokens", "max_output_tokens")
    return Refused(refused.status, message, refused.kind, "max_output_tokens")


def _read(body: bytes) -> Request:
    try:
        request = read(body)
    except Untranslatable as error:
        raise unfit("body", error.reason, {}) from None
    if request.truncation not in (None, "auto", "disabled"):
        raise unfit("body.truncation", "Input should be 'auto' or 'disabled'", request.truncation)
    return request


def _check_items(given: str | list[dict[str, object]]) -> None:
    if isinstance(given, list) and any(item.get("type") not in _ITEMS for item in given):
        # The engine lists what each type of an item disliked; the first is enough here.
        says = "Input should be a valid string"
        raise bad_schema("string_type", "body.input", says, shown(given))


def _translated(request: Request, history: list[Item]) -> Translation:
    """Return the call as chat that tells its token ids; raises Refused."""
    alone = msgspec.structs.replace(request, enable_response_messages=False)
    try:
        translation = carry(alone, history)
    except Untranslatable as error:
        if error.invalid:
            raise unfit("body.input", error.reason, {}) from None
        raise bad_request(error.reason) from None
    body = translation.body.removesuffix(b"}") + b',"return_token_ids":true}'
    return msgspec.structs.replace(translation, body=body)


def _input(request: Request) -> list[Item]:
    given = request.input
    return [Item(role="user", content=given)] if isinstance(given, str) else given
