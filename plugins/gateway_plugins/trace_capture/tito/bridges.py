"""Renders what follows a turn with the package `renderers`, for the models that it knows."""

import asyncio
import json
import logging
from array import array
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from gateway import ConfigError
from gateway_plugins.trace_capture.tito.turns import Turn

log = logging.getLogger("gateway.trace_capture")

MAX_KINDS = 64
"""Maximum sets of template options of a model that are remembered."""


class Renderer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the package renders a model.

    `tokenizer` is the folder with the model's `tokenizer.json`. `renderer` is the package's name
    for the model's template; None: it knows the model by its name.
    """

    tokenizer: str
    renderer: str | None = None


class Bridges:
    """The bridge of each model. Raises ConfigError for a model that the package cannot render."""

    def __init__(self, options: Mapping[str, Renderer]) -> None:
        self._bridges = {model: Bridge(model, option) for model, option in options.items()}

    async def following(
        self, turn: Turn, request: Mapping[str, Any], place: int
    ) -> list[int] | None:
        """Return the ids that follow the turn whose message is at `place` in the request.

        None: the package does not know the model, or cannot tell them for certain.
        """
        model = request.get("model")
        bridge = self._bridges.get(model) if isinstance(model, str) else None
        if bridge is None:
            return None
        return await asyncio.to_thread(bridge.following, turn, request, place)


class Bridge:
    """One model. Its methods block, and may be called in any thread."""

    def __init__(self, model: str, option: Renderer) -> None:
        self._model = model
        self._package, self._base = _load()
        self._tokenizer = _Tokenizer(model, Path(option.tokenizer))
        self._renderers: dict[str, Any] = {}
        self._config = self._config_of(option.renderer)
        try:
            self._renderer({})
        except Exception as error:  # noqa: BLE001  the package raises whatever it meets
            raise self._error(f"{type(error).__name__}: {error}") from None

    def _config_of(self, name: str | None) -> Any:
        known = self._base.MODEL_RENDERER_MAP
        found = known.get(self._model) if name is None else name
        if found is None:
            raise self._error("it knows no such model; name its template in `renderer`")
        names = sorted({*known.values()})
        if found not in names:
            raise self._error(f"it has no renderer {found!r}; it has {', '.join(names)}")
        adapter = import_module("pydantic").TypeAdapter(self._package.RendererConfig)
        return adapter.validate_python({"name": found, "thinking_retention": "all"})

    def _error(self, words: str) -> ConfigError:
        return ConfigError(f"tito_renderers: the package renderers, {self._model!r}: {words}")

    def _renderer(self, options: Mapping[str, Any]) -> Any:
        """Return the renderer with these template options. Raises ValueError if it has none."""
        key = json.dumps(options, sort_keys=True)
        found = self._renderers.get(key)
        if found is None:
            if len(self._renderers) >= MAX_KINDS:
                self._renderers.clear()
            found = self._renderers[key] = self._package.create_renderer(
                self._tokenizer, self._config, chat_template_kwargs=options
            )
        return found

    def following(self, turn: Turn, request: Mapping[str, Any], place: int) -> list[int] | None:
        """As that of Bridges. Never raises."""
        prompt, sampled = _ids(turn.prompt), _ids(turn.sampled)
        options, tools = request.get("chat_template_kwargs"), request.get("tools")
        try:
            made = self._renderer(options or {}).bridge_to_next_turn(
                prompt, sampled, request["messages"][place + 1 :], tools=tools or None
            )
            whole = made.token_ids if made is not None else []
        except Exception as error:  # noqa: BLE001  callers send messages of any shape
            log.debug("the package renderers cannot continue %r: %s", self._model, error)
            return None
        kept = len(prompt) + len(sampled)
        return whole[kept:] if whole[:kept] == [*prompt, *sampled] else None


class _Tokenizer:
    """A tokenizer as the package wants it, made of a `tokenizer.json`. Raises ConfigError."""

    unk_token_id = None

    def __init__(self, model: str, folder: Path) -> None:
        self.name_or_path = model
        try:
            self._tokenizer = import_module("tokenizers").Tokenizer.from_file(
                str(folder / "tokenizer.json")
            )
        except Exception as error:  # noqa: BLE001  that library raises no other class
            raise ConfigError(
                f"tito_renderers: the tokenizer of {model!r} cannot be read: "
                f"{folder}/tokenizer.json: {error}"
            ) from None
        self.eos_token_id = self._end_of(folder)

    def _end_of(self, folder: Path) -> int | None:
        try:
            found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            token = found.get("eos_token")
        except (OSError, ValueError, AttributeError):
            return None
        token = token.get("content") if isinstance(token, dict) else token
        return self._tokenizer.token_to_id(token) if isinstance(token, str) else None

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        if isinstance(tokens, str):
            return self._tokenizer.token_to_id(tokens)
        return [self._tokenizer.token_to_id(token) for token in tokens]


def _ids(packed: bytes) -> list[int]:
    return array("i", packed).tolist()


def _load() -> tuple[Any, Any]:
    try:
        import_module("tokenizers")
        return import_module("renderers"), import_module("renderers.base")
    except ImportError:
        raise ConfigError(
            "tito_renderers needs renderers: pip install 'llm-call-gateway[renderers]'"
        ) from None
