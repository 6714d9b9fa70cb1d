"""What follows a turn, rendered by the package renderers; skipped where it is not installed."""

import json
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.trace_capture.tito.bridges import Bridge, Bridges, Renderer
from gateway_plugins.trace_capture.tito.suffix import End
from gateway_plugins.trace_capture.tito.turns import Turn
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.capturing import CAPTURE
from support.tito.agents import Agent, traces_of, with_tito
from support.workers.by_path import said

from gateway import ConfigError
from gateway.config import StorageSettings
from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, answer_of, entry

RENDER = "/v1/chat/completions/render"
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
MARKS += ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


def needed() -> Any:
    """Return the module tokenizers, or skip the test."""
    words = "pip install 'llm-call-gateway[renderers]'"
    pytest.importorskip("renderers", reason=words)
    return pytest.importorskip("tokenizers", reason=words)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of bytes that has the marks of Qwen3."""
    tokenizers = needed()
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: place for place, letter in enumerate(letters)}, [])
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(MARKS)
    folder = tmp_path_factory.mktemp("model")
    made.save(str(folder / "tokenizer.json"))
    config = json.dumps({"eos_token": "<|im_end|>"})
    (folder / "tokenizer_config.json").write_text(config, encoding="utf-8")
    return folder


class Words:
    """Tokens of texts, and texts of tokens."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = needed().Tokenizer.from_file(str(folder / "tokenizer.json"))

    def ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer.encode(text).ids
        return found

    def text(self, ids: list[int] | None) -> str | None:
        return None if ids is None else self._tokenizer.decode(ids, skip_special_tokens=False)


PROMPT = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def turn(words: Words, said: str) -> Turn:
    prompt, sampled = (array("i", words.ids(text)).tobytes() for text in (PROMPT, said))
    return Turn("t", b"", [], prompt, sampled, End(0, "cut"))


def asked(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    head = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "So"}]
    return {"model": "m", "messages": [*head, *messages], **fields}


USER = {"role": "user", "content": "And?"}
ENDED = "\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("sampled", "message", "expected"),
    [
        ("So<|im_end|>", USER, ENDED),
        ("So", USER, "<|im_end|>" + ENDED),
        (
            '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call><|im_end|>',
            {"role": "tool", "tool_call_id": "1", "content": "Rain."},
            ENDED.replace("And?", "<tool_response>\nRain.\n</tool_response>"),
        ),
        ("So<|im_end|> it", USER, None),  # what was sampled must stay, and the package drops it
        ("So<|im_end|>", {"role": "assistant", "content": "x"}, None),
    ],
)
def test_the_package_says_what_follows_a_turn(
    model: Path, sampled: str, message: dict[str, Any], expected: str | None
) -> None:
    words, bridge = Words(model), Bridge("m", Renderer(tokenizer=str(model), renderer="qwen3"))
    assert words.text(bridge.following(turn(words, sampled), asked(message), 1)) == expected


def test_options_of_the_template_are_those_of_the_request(model: Path) -> None:
    words, bridge = Words(model), Bridge("m", Renderer(tokenizer=str(model), renderer="qwen3"))
    off = asked(USER, chat_template_kwargs={"enable_thinking": False})
    made = words.text(bridge.following(turn(words, "So<|im_end|>"), off, 1))
    assert made == ENDED + "<think>\n\n</think>\n\n"
    odd = asked(USER, chat_template_kwargs={"no_such": 1})
    assert bridge.following(turn(words, "So<|im_end|>"), odd, 1) is None


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(values, max_size=3), values, values)
def test_messages_of_any_shape_raise_nothing(
    model: Path, messages: list[Any], tools: Any, options: Any
) -> None:
    bridge = Bridge("m", Renderer(tokenizer=str(model), renderer="qwen3"))
    request = {**asked(), "tools": tools, "chat_template_kwargs": options}
    request["messages"] += messages
    bridge.following(turn(Words(model), "So<|im_end|>"), request, 1)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"renderer": None}, "knows no such model"),
        ({"renderer": "qwen99"}, "no renderer 'qwen99'; it has .*qwen3"),
        ({"renderer": "default"}, "no renderer 'default'"),
        ({"renderer": "llama-3"}, "renderers, 'm'"),  # its marks are not in the tokenizer
        ({"tokenizer": "/nowhere"}, "cannot be read: /nowhere/tokenizer.json"),
    ],
)
def test_what_the_package_cannot_render_is_told_at_the_start(
    model: Path, option: dict[str, Any], words: str
) -> None:
    given = {"tokenizer": str(model), "renderer": "qwen3", **option}
    with pytest.raises(ConfigError, match=f"(?s)tito_renderers: .*{words}"):
        Bridges({"m": Renderer(**given)})


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "renderers", None)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"pip install 'llm-call-gateway\[renderers\]'"):
        Bridges({"m": Renderer(tokenizer="/nowhere")})


class Engine:
    """Renders chats in ChatML; the model says `So.` `answers` is how each answer begins."""

    def __init__(self, words: Words, answers: str) -> None:
        self._words, self._answers = words, answers
        self.prompts: list[list[int]] = []

    async def script(self, connection: ScriptedConnection) -> None:
        while True:
            head, _, body = (await connection.read_request()).partition(b"\r\n\r\n")
            request = json.loads(body)
            rendering = head.split(b" ")[1].decode() == RENDER
            answer = self._render(request) if rendering else self._generate(request)
            await connection.write(answer)

    def _render(self, request: dict[str, Any]) -> bytes:
        told = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in request["messages"]]
        end = self._answers if request.get("add_generation_prompt", True) else ""
        ids = self._words.ids("".join([*told, end]))
        return said({"request_id": "chatcmpl-1", "token_ids": ids, "sampling_params": {"n": 1}})

    def _generate(self, request: dict[str, Any]) -> bytes:
        self.prompts.append(request["token_ids"])
        ids = [*self._words.ids("So."), *self._words.ids("<|im_end|>")]
        content = [{"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}] * len(ids)
        choice = {"index": 0, "text": "So.", "token_ids": ids, "logprobs": {"content": content}}
        usage = {"prompt_tokens": len(request["token_ids"]), "completion_tokens": len(ids)}
        answer = {
            "request_id": "generate-tokens-1",
            "prompt_token_ids": request["token_ids"],
            "choices": [{**choice, "finish_reason": "stop"}],
            "usage": {**usage, "total_tokens": sum(usage.values())},
        }
        return answer_of(json.dumps(answer).encode())


@pytest.mark.parametrize(
    ("answers", "rendered_by"),
    [("<|im_start|>assistant\n", "renderers"), ("<|im_start|>assistant\n<think>\n", None)],
    ids=["agrees", "disagrees"],
)
async def test_the_package_renders_what_the_engine_renders_too(
    gateway_for: GatewayFor, tmp_path: Path, model: Path, answers: str, rendered_by: str | None
) -> None:
    engine = Engine(Words(model), answers)
    options = {"m": {"tokenizer": str(model), "renderer": "qwen3"}}
    async with ScriptedWorker(engine.script) as worker:
        live = await gateway_for(
            "sessions",
            entry(CAPTURE, tito_renderers=options),
            workers=[worker.url],
            storage=StorageSettings(path=str(tmp_path / "t.db")),
        )
        agent: Agent = await with_tito(live, "s", model="m", allowed_token_ids=None)
        for text in ("Hi", "And?"):
            await agent.say(text)
        first, second = await traces_of(live, "s")
    assert first.metadata["tito"] == {"prompt": "rendered"}
    assert second.metadata["tito"]["prompt"] == "continued"
    assert second.metadata["tito"].get("rendered_by") == rendered_by
    end = "\n<|im_start|>user\nAnd?<|im_end|>\n" + answers
    kept = [*first.prompt_token_ids, *first.completion_token_ids]
    assert engine.prompts[1] == [*kept, *Words(model).ids(end)]
