"""The clients that callers use, `openai` and `anthropic`, each as it comes, behind one face."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal, Self

import anthropic
import openai
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

KeyHeader = Literal["authorization", "x-api-key"]


class OpenAIClient:
    """Asks for chats; `path` is where, `plain` and `stream` name recorded answers for it."""

    errors: ModuleType = openai
    path = "/v1/chat/completions"
    plain, stream = "default/chat_plain", "default/chat_stream"

    def __init__(
        self, url: str, key: str, *, retries: int = 0, header: KeyHeader = "authorization"
    ) -> None:
        self.client = AsyncOpenAI(base_url=url + "/v1", api_key=key, max_retries=retries)
        self._headers: dict[str, str | openai.Omit] = {}
        if header == "x-api-key":
            self._headers = {"authorization": openai.Omit(), header: key}

    async def ask(self, model: str = "tiny") -> str:
        """The text of a plain answer."""
        answer = await self.client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=6,
            extra_headers=self._headers,
        )
        return answer.choices[0].message.content or ""

    async def read(self, into: list[str], model: str = "tiny") -> None:
        """A streamed answer, its texts as they come; those before an error too."""
        stream = await self.client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Hello"}],
            stream=True,
            extra_headers=self._headers,
        )
        async for chunk in stream:
            into += [choice.delta.content or "" for choice in chunk.choices]

    async def models(self) -> Sequence[str]:
        return [model.id async for model in self.client.models.list()]

    async def model(self, name: str) -> str:
        return (await self.client.models.retrieve(name)).id

    @staticmethod
    def said(error: Any) -> tuple[str, str, str]:
        """Code, type and message of an error, as the client shows them."""
        return error.code, error.type, error.body["message"]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()


class AnthropicClient:
    """Asks for messages, as OpenAIClient asks for chats."""

    errors: ModuleType = anthropic
    path = "/v1/messages"
    plain, stream = "default/messages_plain", "default/messages_tool_any_stream"

    def __init__(
        self, url: str, key: str, *, retries: int = 0, header: KeyHeader = "x-api-key"
    ) -> None:
        self.client = AsyncAnthropic(
            base_url=url,
            max_retries=retries,
            api_key=key if header == "x-api-key" else None,
            auth_token=key if header == "authorization" else None,
        )

    async def ask(self, model: str = "tiny") -> str:
        answer = await self.client.messages.create(
            model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=6
        )
        return "".join(block.text for block in answer.content if block.type == "text")

    async def read(self, into: list[str], model: str = "tiny") -> None:
        stream = await self.client.messages.create(
            model=model,
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=6,
            stream=True,
        )
        async for event in stream:
            if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                into.append(event.delta.partial_json)  # noqa: PERF401

    async def models(self) -> Sequence[str]:
        return [model.id async for model in self.client.models.list()]

    async def model(self, name: str) -> str:
        return (await self.client.models.retrieve(name)).id

    @staticmethod
    def said(error: Any) -> tuple[str, str, str]:
        said = error.body["error"]
        return said["code"], said["type"], said["message"]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()


Client = OpenAIClient | AnthropicClient
Kind = type[OpenAIClient] | type[AnthropicClient]
KINDS: Sequence[Kind] = (OpenAIClient, AnthropicClient)
