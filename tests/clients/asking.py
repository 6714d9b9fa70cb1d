"""Run by a Python that has the client: `asking.py CLIENT`.

Reads a JSON list of asks, each with the `url` of a server, a `model`, and whether to `stream`.
Makes each once, as programs that use the client do, and prints what each got: the text, or the
class of the exception and its words.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ |= {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OPENAI_API_KEY": "gw-key",
    "VERIFIERS_KEY": "gw-key",
}

KEY, PROMPT = "gw-key", "Say something."
MESSAGES: Any = [{"role": "user", "content": PROMPT}]


def ask_openai(url: str, model: str, *, stream: bool) -> str:
    from openai import OpenAI

    client = OpenAI(base_url=url, api_key=KEY)
    if not stream:
        answer = client.chat.completions.create(model=model, messages=MESSAGES)
        return answer.choices[0].message.content or ""
    events = client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
    return "".join(choice.delta.content or "" for one in events for choice in one.choices)


def ask_litellm(url: str, model: str, *, stream: bool) -> str:
    import litellm

    options = {"api_base": url, "api_key": KEY, "num_retries": 2}
    answer: Any = litellm.completion(f"openai/{model}", MESSAGES, stream=stream, **options)
    if not stream:
        return str(answer.choices[0].message.content)
    return "".join(one.choices[0].delta.content or "" for one in answer)


def ask_langchain(url: str, model: str, *, stream: bool) -> str:
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=url, api_key=KEY, model=model, streaming=stream)
    return str(chat.invoke(PROMPT).content)


def ask_openai_agents(url: str, model: str, *, stream: bool) -> str:
    from agents import Agent, OpenAIChatCompletionsModel, Runner
    from openai import AsyncOpenAI

    async def run() -> str:
        client = AsyncOpenAI(base_url=url, api_key=KEY)
        agent = Agent(name="a", model=OpenAIChatCompletionsModel(model, client))
        if not stream:
            return str((await Runner.run(agent, PROMPT)).final_output)
        running = Runner.run_streamed(agent, PROMPT)
        async for _ in running.stream_events():
            pass
        return str(running.final_output)

    return asyncio.run(run())


def ask_pydantic_ai(url: str, model: str, *, stream: bool) -> str:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    agent = Agent(OpenAIChatModel(model, provider=OpenAIProvider(base_url=url, api_key=KEY)))

    async def run() -> str:
        if not stream:
            return str((await agent.run(PROMPT)).output)
        async with agent.run_stream(PROMPT) as running:
            return str(await running.get_output())

    return asyncio.run(run())


def ask_inspect_ai(url: str, model: str, *, stream: bool) -> str:
    from inspect_ai.model import GenerateConfig, get_model

    config = GenerateConfig(max_retries=2)
    name = f"openai-api/gateway/{model}"
    asked = get_model(name, base_url=url, api_key=KEY, config=config, stream=stream)
    return str(asyncio.run(asked.generate(PROMPT)).completion)


def ask_strands(url: str, model: str, *, stream: bool) -> str:
    from strands import Agent
    from strands.models.openai import OpenAIModel

    settings = {"base_url": url, "api_key": KEY}
    asked = OpenAIModel(client_args=settings, model_id=model, streaming=stream)
    answer = Agent(model=asked, callback_handler=None)(PROMPT)
    return "".join(str(block["text"]) for block in answer.message["content"])


def ask_dspy(url: str, model: str, *, stream: bool) -> str:
    import dspy

    asked = dspy.LM(f"openai/{model}", api_base=url, api_key=KEY, cache=False)
    if not stream:
        return str(asked(PROMPT)[0])
    program = dspy.streamify(dspy.Predict("question -> answer"))

    async def run() -> str:
        with dspy.context(lm=asked, adapter=dspy.ChatAdapter()):
            return "".join([str(one) async for one in program(question=PROMPT)])

    return asyncio.run(run())


def ask_smolagents(url: str, model: str, *, stream: bool) -> str:
    from smolagents import ChatMessage, MessageRole, OpenAIServerModel

    server = OpenAIServerModel(model, api_base=url, api_key=KEY)
    asked = [ChatMessage(role=MessageRole.USER, content=[{"type": "text", "text": PROMPT}])]
    if not stream:
        return str(server.generate(asked).content)
    return "".join(one.content or "" for one in server.generate_stream(asked))


def ask_verifiers(url: str, model: str, *, stream: bool) -> str:
    from verifiers.v1.clients import EvalClient, EvalClientConfig
    from verifiers.v1.dialects.chat import ChatDialect

    client = EvalClient(EvalClientConfig(base_url=url, api_key_var="VERIFIERS_KEY"))
    body = {"model": model, "messages": MESSAGES, "stream": stream}

    async def run() -> str:
        if not stream:
            raw = (await client.get_response(ChatDialect(), body, None)).raw
            return str(raw["choices"][0]["message"]["content"])
        reply = await client.relay(ChatDialect(), body)
        return b"".join([one async for one in reply.chunks]).decode()

    return asyncio.run(run())


CLIENTS: dict[str, Callable[..., str]] = {
    "openai": ask_openai,
    "litellm": ask_litellm,
    "langchain-openai": ask_langchain,
    "openai-agents": ask_openai_agents,
    "pydantic-ai": ask_pydantic_ai,
    "inspect-ai": ask_inspect_ai,
    "strands": ask_strands,
    "dspy": ask_dspy,
    "smolagents": ask_smolagents,
    "verifiers": ask_verifiers,
}


def ask(name: str, asked: dict[str, Any]) -> dict[str, str]:
    told = {"text": "", "error": "", "words": ""}
    try:
        told["text"] = CLIENTS[name](**asked)
    except Exception as error:  # noqa: BLE001  it is what is asked for
        told |= {"error": type(error).__name__, "words": str(error)[:300]}
    return told


def main(name: str) -> None:
    told = [ask(name, one) for one in json.load(sys.stdin)]
    sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
